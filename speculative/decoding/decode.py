"""Our decoding loop, which drafts and verifies batches whose sequences accept unevenly.

    from speculative.decoding.decode import generate

    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    generation = generate(target, draft, inputs, gamma=4, seed=7)

In a step (`speculative.decoding.step`) the draft proposes gamma tokens for every sequence, one
forward pass of the target scores them all, and `verify` decides how many stay and which token
follows. Then both models forget what was rejected, and sequences that have ended leave the batch.
transformers' own loop with our verification is in `speculative.decoding.assisted`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speculative.decoding.arguments import check_options, check_sequences, check_tensors
from speculative.decoding.even_rows import Reader
from speculative.decoding.generation import Generation, Phases, Record
from speculative.decoding.inputs import (
    check_names,
    check_padding,
    check_pair,
    decoder_prompts,
    end_tokens,
)
from speculative.decoding.reading import make_reader, reading
from speculative.decoding.sampling import Sampling
from speculative.decoding.step import Observer, Settings, Step
from speculative.verification import philox
from speculative.verification.rules import EXACT, Rule, check_rule
from speculative.verification.status import LogitsError, explain
from speculative.verification.vocabulary import vocabulary
from systems.modes import evaluating


@torch.inference_mode()
def generate(
    target: Any,
    draft: Any | None,
    inputs: Mapping[str, Tensor],
    *,
    gamma: int = 4,
    rule: Rule = EXACT,
    max_new_tokens: int = 64,
    sampling: Sampling | None = None,
    observe: Observer | None = None,
    seed: int = 0,
    requests: Sequence[int] | None = None,
    end_token_ids: Sequence[int] | None = None,
) -> Generation:
    """Sample continuations from `target`, helped by `draft`.

    With the rule `Exact()` they are distributed as if sampled from the target alone, whatever the
    draft; other rules are approximations (`speculative.verification.rules`). The tokens of a
    request depend on the seed and its number, not on the batch around it, up to rounding in the
    models. How a model is read, and how fast that is, depends on what it can do
    (`speculative.decoding.reading`).

    Args:
        target: a transformers causal or encoder-decoder model (T5, Whisper and the like) of any
            floating dtype; float64 logits are rounded to float32 before tokens are sampled.
        draft: a smaller one of the same kind and tokenizer; its vocabulary may be padded to another
            width (`speculative.verification.vocabulary`). None: the target decodes alone, one token
            a step.
        inputs: int64 `input_ids` [B, T] with `attention_mask`, padded on either side, or
            `input_features`; `decoder_input_ids` may say what an encoder-decoder model's output
            starts with. Other names are refused.
        gamma: how many tokens the draft proposes a step; fewer where fewer are left to generate.
        rule: when a draft token is accepted.
        max_new_tokens: longest continuation.
        sampling: temperature, top-k, top-p; None: plain sampling.
        observe: is called with the logits and draft tokens of every step as they go into
            verification.
        seed: decides all random numbers, together with the requests.
        requests: a number for every sequence; None: 0 to B - 1.
        end_token_ids: the tokens that end a sequence; None: the target's own.

    Returns:
        The new tokens of every sequence, and what decoding took.

    Raises:
        InputError: options out of range, models that do not fit each other, inputs that do not fit
            them or that are not read, or a model that cannot be read exactly.
        LogitsError: NaN or infinite logits.
    """
    sampling = Sampling() if sampling is None else sampling
    check_options(
        target,
        gamma=gamma,
        max_new_tokens=max_new_tokens,
        seed=seed,
        sampling=sampling,
        end_token_ids=end_token_ids,
    )
    check_rule(rule)
    check_tensors(target, draft, inputs)
    check_names(target, inputs)
    settings = Settings(
        gamma=gamma if draft is not None else 0,
        rule=rule,
        sampling=sampling,
        observe=observe,
        limit=max_new_tokens,
        ends=frozenset(end_tokens(target) if end_token_ids is None else end_token_ids),
        vocabulary=vocabulary(target),
    )
    with evaluating(target, *([] if draft is None else [draft])):
        prompts = decoder_prompts(target, inputs)
        check_sequences(target, draft, inputs, prompts, requests)
        check_pair(target, draft, max(map(len, prompts)) + max_new_tokens)
        numbers = list(range(len(prompts)) if requests is None else requests)
        seeds = [_request_seed(seed, number) for number in numbers]
        return _decode(settings, target, draft, dict(inputs), prompts, seeds)


def _decode(
    settings: Settings,
    target: Any,
    draft: Any | None,
    inputs: dict[str, Tensor],
    prompts: list[list[int]],
    seeds: list[int],
) -> Generation:
    """Take step after step until all sequences have ended."""
    device = target.device
    inputs = {name: x.to(device) for name, x in inputs.items()}
    phases = Phases(device)
    lengths = [len(prompt) for prompt in prompts]
    text_lengths = range(min(lengths), max(lengths) + settings.limit + settings.gamma + 1)
    target_reader = make_reader(
        target, inputs, len(prompts), text_lengths=text_lengths, ahead=settings.gamma
    )
    misplaced = reading(target, inputs).misplaced
    phases.mark("target")
    draft_reader = None
    if draft is not None:
        draft_reader = make_reader(draft, inputs, len(prompts), text_lengths=text_lengths, ahead=0)
    phases.mark("draft")

    outputs: list[list[int]] = [[] for _ in prompts]
    active = list(range(len(prompts)))  # the sequences that have not ended; row i is active[i]
    record = Record()
    while active:
        histories = [prompts[i] + outputs[i] for i in active]
        check_padding(target, misplaced, histories)
        step = Step(
            settings=settings,
            gamma=min(settings.gamma, settings.limit - min(len(outputs[i]) for i in active)),
            target=target_reader,
            draft=draft_reader,
            histories=histories,
            seeds=torch.tensor([seeds[i] for i in active], device=device),
            offsets=torch.tensor([len(outputs[i]) for i in active], device=device),
            begins=not any(outputs[i] for i in active),
            phases=phases,
        )
        for i, row in zip(active, step.decide(), strict=True):
            record += _take(settings, i, outputs[i], row)

        # Sequences that have ended leave the batch; the others forget the rejected draft tokens.
        rows = [row for row, i in enumerate(active) if not _has_ended(outputs[i], settings)]
        kept = [len(prompts[i]) + len(outputs[i]) for i in active]
        active = [active[row] for row in rows]
        if active:
            target_reader = _go_back(target_reader, rows, kept, behind=1)
            if draft_reader is not None:
                draft_reader = _go_back(draft_reader, rows, kept, behind=2)
        phases.mark("rest")
    return Generation(outputs, record + phases.record())


def _take(settings: Settings, sequence: int, output: list[int], row: list[int]) -> Record:
    """Add to `output` the tokens that a step gave this sequence.

    Args:
        row: the sequence's row of `Step.decide`.

    Raises:
        LogitsError: the step gave no token.
    """
    accepted, next_token, status, *draft_tokens = row
    if status:
        raise LogitsError(f"sequence {sequence}, token {len(output)}: {explain(status)}")
    new = _until_end([*draft_tokens[:accepted], next_token], settings.ends)
    new = new[: settings.limit - len(output)]
    output += new
    return Record(
        new_tokens=len(new),
        target_steps=1,
        tested=min(len(new), settings.gamma),
        accepted=min(len(new), accepted),
    )


def _go_back(model: Reader, rows: list[int], kept: list[int], *, behind: int) -> Reader:
    """Let a model forget the rows that have ended, and the rejected draft tokens of the others.

    Args:
        rows: the rows that go on.
        kept: the length of every row's text, those that have ended too.
        behind: how many of the last tokens the model shall not have read. That is 1 for the target,
            which has not read the next token. The draft has not read its own last token either if
            all were accepted, so it reads two again in any case, and rows stay of one width.
    """
    if len(rows) < len(kept):
        model = model.select(rows)
    model.rewind([kept[row] - behind for row in rows])
    return model


def _until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """The tokens up to the first that ends a sequence, this one included."""
    first = next((n for n, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: first + 1]


def _has_ended(output: list[int], settings: Settings) -> bool:
    """Whether a sequence has reached its limit or generated an end token."""
    return len(output) >= settings.limit or output[-1] in settings.ends


def _request_seed(seed: int, request: int) -> int:
    """The seed of a request: 64 bits, signed as torch wants them."""
    words = np.random.SeedSequence([seed, request]).generate_state(1, np.uint64)
    return philox.signed(int(words[0]))

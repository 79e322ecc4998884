"""Our decoding loop, which drafts and verifies batches whose sequences accept unevenly.

    import speculative

    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    generation = speculative.generate(target, draft, inputs, gamma=4, seed=7)

    for new in speculative.stream(target, draft, inputs, do_sample=False):
        ...  # a list of new tokens for every sequence, step after step

The loop is in `speculative.decoding.stream`. transformers' own loop with our verification is in
`speculative.decoding.assisted`.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speculative.decoding.arguments import (
    check_lookup,
    check_options,
    check_sequences,
    check_tensors,
)
from speculative.decoding.generation import Generation
from speculative.decoding.generation_config import check_config, config_processors, suppressing
from speculative.decoding.inputs import (
    check_names,
    check_pair,
    decoder_prompts,
    end_tokens,
    paddings,
    sources,
)
from speculative.decoding.lookup import Lookup
from speculative.decoding.pace import AdaptiveGamma
from speculative.decoding.processors import Criterion, Processor, check_criteria, check_processors
from speculative.decoding.sampling import Sampling
from speculative.decoding.step import Observer, Settings
from speculative.decoding.stream import Stream
from speculative.verification import philox
from speculative.verification.rules import EXACT, Rule
from speculative.verification.vocabulary import vocabulary
from systems.schema import InputError


def generate(
    target: Any,
    draft: Any | None,
    inputs: Mapping[str, Tensor],
    *,
    gamma: int | AdaptiveGamma = 4,
    rule: Rule = EXACT,
    max_new_tokens: int = 64,
    do_sample: bool = True,
    sampling: Sampling | None = None,
    logits_processor: Sequence[Processor] | None = None,
    stopping_criteria: Sequence[Criterion] | None = None,
    stop_strings: str | Sequence[str] | None = None,
    tokenizer: Any | None = None,
    streamer: Any | None = None,
    observe: Observer | None = None,
    output_log_probabilities: bool = False,
    seed: int = 0,
    requests: Sequence[int] | None = None,
    end_token_ids: Sequence[int] | None = None,
) -> Generation:
    """Decode continuations with `target`, helped by `draft`.

    Greedily they are the target's own greedy text. Sampled with the rule `Exact()`, `Block()` or
    `Coupled()` they are distributed as if sampled from the target alone, whatever the draft; the
    other rules are approximations (`speculative.verification.rules`). The tokens of a request
    depend on the seed and its number, not on the batch around it, up to rounding in the models and
    to processors that look at padding. How a model is read, and how fast that is, depends on what
    it can do (`speculative.decoding.reading`).

    How tokens are sampled and how long a text may be is said here. What else the target's
    generation config says about the text (repetition_penalty, forced and suppressed tokens, end
    tokens, ...) counts as in transformers, or is refused by name
    (`speculative.decoding.generation_config`).

    Args:
        target: a transformers causal or encoder-decoder model (T5, Whisper and the like) of any
            floating dtype; float64 logits are rounded to float32 before tokens are chosen.
        draft: a smaller one of the same kind and tokenizer; its vocabulary may be padded to another
            width (`speculative.verification.vocabulary`). A `Lookup` takes drafts from the text
            itself. None: the target decodes alone, one token a step.
        inputs: int64 `input_ids` [B, T] with `attention_mask`, padded on either side, or
            `input_features`; `decoder_input_ids` may say what an encoder-decoder model's output
            starts with. Other names are refused.
        gamma: how many tokens the draft proposes a step; fewer where fewer are left to generate.
            `AdaptiveGamma()` takes as many as pay.
        rule: when a draft token is accepted. Greedy decoding compares tokens and has no rule.
        max_new_tokens: longest continuation.
        do_sample: False is greedy decoding, as `Sampling(temperature=0)` is.
        sampling: temperature, top-k, top-p, min-p; None: plain sampling.
        logits_processor: transformers' logits processors, or functions like them, which change the
            scores of both models (`speculative.decoding.processors`); top-k, top-p and min-p come
            after them.
        stopping_criteria: transformers' stopping criteria, or functions like them; the token after
            which one is met is a sequence's last.
        stop_strings: texts after which a sequence ends; they need `tokenizer`. None: those of the
            target's generation config.
        tokenizer: of the target, for `stop_strings`.
        streamer: transformers' `TextStreamer` or another object with `put` and `end`: gets the
            prompt, then the tokens of every step. One sequence only; `stream` is for batches.
        observe: is called with the logits and draft tokens of every step as verification sees
            them: -inf where a filter leaves a token out.
        output_log_probabilities: whether the result has the log-probability of every new token
            under the target: the log-softmax of what the token was chosen by, after suppression,
            processors, temperature and filters. Greedy decoding has no temperature and no filters.
            So they are what transformers' `compute_transition_scores` makes of its own scores with
            `normalize_logits=True`.
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
    steps = stream(
        target,
        draft,
        inputs,
        gamma=gamma,
        rule=rule,
        max_new_tokens=max_new_tokens,
        do_sample=do_sample,
        sampling=sampling,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        stop_strings=stop_strings,
        tokenizer=tokenizer,
        observe=observe,
        output_log_probabilities=output_log_probabilities,
        seed=seed,
        requests=requests,
        end_token_ids=end_token_ids,
    )
    with contextlib.closing(steps):  # a streamer may raise
        if streamer is None:
            for _ in steps:
                pass
        else:
            _pass_on(steps, streamer)
    return steps.generation


def stream(
    target: Any,
    draft: Any | None,
    inputs: Mapping[str, Tensor],
    *,
    gamma: int | AdaptiveGamma = 4,
    rule: Rule = EXACT,
    max_new_tokens: int = 64,
    do_sample: bool = True,
    sampling: Sampling | None = None,
    logits_processor: Sequence[Processor] | None = None,
    stopping_criteria: Sequence[Criterion] | None = None,
    stop_strings: str | Sequence[str] | None = None,
    tokenizer: Any | None = None,
    observe: Observer | None = None,
    output_log_probabilities: bool = False,
    seed: int = 0,
    requests: Sequence[int] | None = None,
    end_token_ids: Sequence[int] | None = None,
) -> Stream:
    """Decode like `generate`, whose options these are, and give the new tokens of every step.

    All is checked before this returns; the models run when the first step is asked for.

    Returns:
        An iterator of lists [B] of new tokens, empty for sequences that have ended. Together they
        are `generate`'s tokens; its `generation` has them with the statistics so far, and its
        `log_probabilities`, where they are asked for, those of all tokens so far.
    """
    sampling = Sampling() if sampling is None else sampling
    most = gamma.most if isinstance(gamma, AdaptiveGamma) else gamma
    lookup = draft if isinstance(draft, Lookup) else None
    draft = None if lookup is not None else draft
    check_options(
        target,
        gamma=most,
        rule=rule,
        max_new_tokens=max_new_tokens,
        do_sample=do_sample,
        output_log_probabilities=output_log_probabilities,
        seed=seed,
        sampling=sampling,
        end_token_ids=end_token_ids,
    )
    if not do_sample:
        sampling = dataclasses.replace(sampling, temperature=0.0)
    check_config(target, samples=not sampling.greedy)
    check_tensors(target, draft, inputs)
    check_names(target, inputs)
    if stop_strings is None:
        stop_strings = getattr(target.generation_config, "stop_strings", None)
    criteria = check_criteria(stopping_criteria, stop_strings, tokenizer)
    prompts = decoder_prompts(target, inputs)
    check_sequences(target, draft, inputs, prompts, requests)
    check_pair(target, draft, max(map(len, prompts)) + max_new_tokens)
    if lookup is not None:
        check_lookup(rule)
    ends = list(end_tokens(target) if end_token_ids is None else end_token_ids)
    padded = paddings(target, inputs, len(prompts))
    width = max(len(row) + len(prompt) for row, prompt in zip(padded, prompts, strict=True))
    settings = Settings(
        gamma=0 if draft is None and lookup is None else most,
        adaptive=most is not gamma and draft is not None,
        lookup=lookup,
        rule=rule,
        sampling=suppressing(target, sampling),
        processors=(
            *config_processors(target, width, max_new_tokens, ends),
            *check_processors(logits_processor, len(prompts)),
        ),
        criteria=criteria,
        observe=observe,
        log_probabilities=output_log_probabilities,
        limit=max_new_tokens,
        ends=frozenset(ends),
        vocabulary=vocabulary(target),
    )
    numbers = list(range(len(prompts)) if requests is None else requests)
    return Stream(
        settings,
        target,
        draft,
        dict(inputs),
        prompts,
        padded,
        [_request_seed(seed, number) for number in numbers],
        sources(target, inputs, len(prompts)),
    )


def _pass_on(steps: Stream, streamer: Any) -> None:
    """Give the prompt and then the tokens of every step to a streamer of transformers.

    Raises:
        InputError: there are several sequences, or it is no streamer.
    """
    if len(steps.prompts) != 1:
        raise InputError(
            f"streamer: takes one sequence, there are {len(steps.prompts)}; read them from "
            "speculative.stream(...)"
        )
    if not hasattr(streamer, "put") or not hasattr(streamer, "end"):
        raise InputError(f"streamer {streamer!r}: give an object with put and end")
    streamer.put(torch.tensor(steps.prompts))
    for (new,) in steps:
        streamer.put(torch.tensor(new))
    streamer.end()


def _request_seed(seed: int, request: int) -> int:
    """The seed of a request: 64 bits, signed as torch wants them."""
    words = np.random.SeedSequence([seed, request]).generate_state(1, np.uint64)
    return philox.signed(int(words[0]))

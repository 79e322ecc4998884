"""Draft and verify: our decoding loop, for batches whose sequences accept unevenly.

    from speculative.decoding.decode import generate

    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    generation = generate(target, draft, inputs, gamma=4, seed=7)

In a step the draft proposes gamma tokens for every sequence, one forward pass of the target scores
them all, and `verify` decides how many stay and which token follows. Sequences that have ended
leave the batch. transformers' own loop with our verification is in `speculative.decoding.assisted`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from speculative.decoding.reading import reader, reading
from speculative.decoding.sampling import Sampling
from speculative.verification import philox
from speculative.verification.rules import EXACT, Rule, check_rule
from speculative.verification.status import LogitsError, explain
from speculative.verification.verify import sample, verify
from speculative.verification.vocabulary import fitted, vocabulary
from systems.modes import evaluating

Observer = Callable[[Tensor, Tensor, Tensor], None]
"""Takes the target's logits [B, G + 1, V], the draft's [B, G, V] and its tokens [B, G]."""


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
        target: a transformers causal model or encoder-decoder model (T5, Whisper and the like), of
            any floating dtype; float64 logits are rounded to float32 before tokens are sampled.
        draft: a smaller one of the same kind and tokenizer; its vocabulary may be padded to another
            width (`speculative.verification.vocabulary`). None: the target alone, one token a step.
        inputs: int64 `input_ids` [B, T] with `attention_mask`, padded on either side, or
            `input_features`; `decoder_input_ids` to start an encoder-decoder model with. Other
            names are refused.
        gamma: draft tokens a step; fewer where fewer are left to generate.
        rule: when a draft token is accepted.
        max_new_tokens: longest continuation.
        sampling: temperature, top-k, top-p; None: plain sampling.
        observe: is shown every step's logits, as they go into verification.
        seed: of all random numbers.
        requests: a number for every sequence; None: 0 to B - 1.
        end_token_ids: what ends a sequence; None: the target's own.

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
    job = _Job(
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
        return _decode(job, target, draft, dict(inputs), prompts, seeds)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The options of one call."""

    gamma: int
    rule: Rule
    sampling: Sampling
    observe: Observer | None
    limit: int
    ends: frozenset[int]
    vocabulary: int
    """The target's."""


def _decode(
    job: _Job,
    target: Any,
    draft: Any | None,
    inputs: dict[str, Tensor],
    prompts: list[list[int]],
    seeds: list[int],
) -> Generation:
    device = target.device
    inputs = {name: x.to(device) for name, x in inputs.items()}
    phases = Phases(device)
    lengths = [len(prompt) for prompt in prompts]
    held = range(min(lengths), max(lengths) + job.limit + job.gamma + 1)
    judge = reader(target, inputs, len(prompts), held=held, ahead=job.gamma)
    misplaced = reading(target, inputs).misplaced
    phases.mark("target")
    proposer = None if draft is None else reader(draft, inputs, len(prompts), held=held, ahead=0)
    phases.mark("draft")

    outputs: list[list[int]] = [[] for _ in prompts]
    active = list(range(len(prompts)))  # sequences that have not ended; row i is sequence active[i]
    record = Record()
    while active:
        histories = [prompts[i] + outputs[i] for i in active]
        check_padding(target, misplaced, histories)
        offsets = torch.tensor([len(outputs[i]) for i in active], device=device)
        row_seeds = torch.tensor([seeds[i] for i in active], device=device)
        gamma = min(job.gamma, job.limit - min(len(outputs[i]) for i in active))
        step = _Step(job, gamma, judge, proposer, histories, row_seeds, offsets, phases)
        decided = step.run(begins=not any(outputs[i] for i in active))

        for i, row in zip(active, decided, strict=True):
            record += _take(job, i, outputs[i], row)
        rows = [row for row, i in enumerate(active) if not _ended(outputs[i], job)]
        kept = [len(prompts[i]) + len(outputs[i]) for i in active]
        active = [active[row] for row in rows]
        if active:
            judge = _go_back(judge, rows, kept, behind=1)
            if proposer is not None:
                proposer = _go_back(proposer, rows, kept, behind=2)
        phases.mark("rest")
    spent = phases.seconds()
    record += Record(
        draft_s=spent["draft"],
        target_s=spent["target"],
        verify_s=spent["verify"],
        rest_s=spent["rest"],
    )
    return Generation(outputs, record)


def _take(job: _Job, sequence: int, output: list[int], row: list[int]) -> Record:
    """Add to `output` what a step of this sequence gave (`_Step.run`)."""
    accepted, next_token, status, *drafted = row
    if status:
        raise LogitsError(f"sequence {sequence}, token {len(output)}: {explain(status)}")
    new = _until_end([*drafted[:accepted], next_token], job.ends)[: job.limit - len(output)]
    output += new
    return Record(
        new_tokens=len(new),
        target_steps=1,
        tested=min(len(new), job.gamma),
        accepted=min(len(new), accepted),
    )


@dataclass(frozen=True)
class _Step:
    """Draft, score, verify: one step of all rows."""

    job: _Job
    gamma: int
    """Draft tokens of this step: no more than the row that has most left to generate."""
    target: Reader
    draft: Reader | None
    histories: list[list[int]]
    seeds: Tensor
    offsets: Tensor
    """Tokens generated so far, int64 [B]: with the seeds they name the random numbers."""
    phases: Phases

    def run(self, *, begins: bool) -> list[list[int]]:
        """For every row: accepted, next token, status, then the draft tokens."""
        restrict, gamma = self.job.sampling.restrict, self.gamma
        drafted = self.seeds.new_empty(len(self.seeds), 0)
        if self.draft is not None:
            drafted, draft_logits = self._propose(self.draft, begins)
            self.phases.mark("draft")
        unread, real = _unread(self.target, self.histories)
        unread = torch.cat([unread.to(self.seeds.device), drafted.clamp(min=0)], 1)
        logits = _narrowed(self.target.read(unread, [n + gamma for n in real], keep=gamma + 1))
        self.phases.mark("target")
        logits = restrict(logits, begins=begins)
        self.phases.mark("rest")
        if self.draft is None:
            token = self._sample(logits[:, 0], self.offsets, philox.NEXT)
            decided = [torch.zeros_like(token), token, (token < 0).long()]
        else:
            common = torch.promote_types(logits.dtype, draft_logits.dtype)
            given = logits.to(common), draft_logits.to(common), drafted
            if self.job.observe is not None:
                self.job.observe(*given)
            decided = list(
                verify(
                    *given,
                    rule=self.job.rule,
                    temperature=self.job.sampling.temperature,
                    seed=self.seeds,
                    offset=self.offsets,
                )
            )
        rows: list[list[int]] = torch.cat([torch.stack(decided, 1), drafted], 1).tolist()
        self.phases.mark("verify")
        return rows

    def _propose(self, draft: Reader, begins: bool) -> tuple[Tensor, Tensor]:
        """Draft tokens int64 [B, G] (-1: the draft's logits are at fault), and their logits."""
        tokens, rows = [], []
        feed, real = _unread(draft, self.histories)
        feed = feed.to(self.seeds.device)
        for t in range(self.gamma):
            logits = fitted(_narrowed(draft.read(feed, real, keep=1)), self.job.vocabulary)
            logits = self.job.sampling.restrict(logits, begins=begins and t == 0)
            token = self._sample(logits[:, 0], self.offsets + t, philox.DRAFT)
            tokens.append(token)
            rows.append(logits)
            feed, real = token.clamp(min=0)[:, None], [1] * len(real)
        return torch.stack(tokens, 1), torch.cat(rows, 1)

    def _sample(self, logits: Tensor, offset: Tensor, stream: int) -> Tensor:
        temperature = self.job.sampling.temperature
        return sample(
            logits, temperature=temperature, seed=self.seeds, offset=offset, stream=stream
        )


def _narrowed(logits: Tensor) -> Tensor:
    """Logits of a dtype that verification takes: float32 in the place of float64."""
    return logits.float() if logits.dtype == torch.float64 else logits


def _unread(model: Reader, histories: list[list[int]]) -> tuple[Tensor, list[int]]:
    """Tokens that the model has not read, padded on the left, and how many are real."""
    rows = [history[n:] for history, n in zip(histories, model.lengths, strict=True)]
    width = max(map(len, rows))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return padded, [len(row) for row in rows]


def _go_back(model: Reader, rows: list[int], kept: list[int], *, behind: int) -> Reader:
    """Drop rows that have ended; keep of the others all but the last `behind` tokens.

    The target has not read the last token. The draft has not read the last two if all its tokens
    were accepted, so it reads two in any case: rows stay of one width.
    """
    if len(rows) < len(kept):
        model = model.select(rows)
    model.rewind([kept[row] - behind for row in rows])
    return model


def _until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    first = next((n for n, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: first + 1]


def _ended(output: list[int], job: _Job) -> bool:
    return len(output) >= job.limit or output[-1] in job.ends


def _request_seed(seed: int, request: int) -> int:
    """A 64-bit seed for every request, signed as torch wants it."""
    words = np.random.SeedSequence([seed, request]).generate_state(1, np.uint64)
    return philox.signed(int(words[0]))

"""One step of decoding: draft some tokens, score them with the target, verify them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from speculative.decoding.even_rows import Reader
from speculative.decoding.generation import Phases
from speculative.decoding.lookup import Lookup
from speculative.decoding.processors import Criterion, Processor, processed
from speculative.decoding.sampling import Sampling
from speculative.verification import philox
from speculative.verification.rules import Coupled, Rule
from speculative.verification.verify import sample, verify
from speculative.verification.vocabulary import fitted

Observer = Callable[[Tensor, Tensor, Tensor], None]
"""Takes the target's logits [B, G + 1, V], the draft's [B, G, V] and its tokens [B, G]."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of one call of `speculative.decoding.decode.generate`."""

    gamma: int
    """Draft tokens a step, at the most; 0 without a draft."""
    adaptive: bool
    """Whether a step may have fewer, as pays."""
    lookup: Lookup | None
    """What drafts without a model."""
    rule: Rule
    sampling: Sampling
    processors: tuple[Processor, ...]
    criteria: tuple[Criterion, ...]
    observe: Observer | None
    log_probabilities: bool
    """Whether the chosen tokens' log-probabilities are wanted."""
    limit: int
    """The most tokens that a sequence generates."""
    ends: frozenset[int]
    """The tokens that end a sequence."""
    vocabulary: int
    """The number of the target's tokens."""


class Decision(NamedTuple):
    """What a step decided, for every row of the batch."""

    rows: list[list[int]]
    """Accepted, next token and status, then the draft tokens (-1 where none could be sampled, or
    none was found)."""
    log_probabilities: list[list[float]]
    """For every row G + 1 numbers, of which the first accepted + 1 count. There are no rows where
    they are not wanted."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of all rows of a batch."""

    settings: Settings
    gamma: int
    """Draft tokens of this step: no more than the row that has most left to generate."""
    target: Reader
    draft: Reader | None
    histories: list[list[int]]
    """Every row's prompt and the tokens generated so far."""
    texts: list[list[int]]
    """The same behind the padding of the prompt, as processors see it; empty without processors."""
    paddings: list[int]
    """How many tokens of every text are padding."""
    seeds: Tensor
    """A seed for every row, int64 [B]."""
    offsets: Tensor
    """Tokens generated so far, int64 [B]: with the seeds they name the random numbers."""
    sources: list[list[int]]
    """What the encoder has read for every row, for the lookup; empty lists without an encoder."""
    begins: bool
    """Whether no row has generated anything yet."""
    phases: Phases
    """Is told what the time was spent on."""

    def decide(self) -> Decision:
        """Draft, score and verify."""
        draft_tokens = self.seeds.new_empty(len(self.seeds), 0)
        draft_logits: list[Tensor] = []
        lengths: Tensor | None = None
        if self.settings.lookup is not None:
            draft_tokens, lengths = self._look_up(self.settings.lookup)
        elif self.draft is not None and self.gamma:
            draft_tokens, draft_logits = self._propose(self.draft)
        self.phases.mark("draft")
        logits = self._score(draft_tokens)
        if self.settings.observe is not None and draft_logits:
            target, drafted = _alike(logits, draft_logits)
            assert drafted is not None
            limit = self.settings.sampling.limit
            self.settings.observe(limit(target), limit(drafted), draft_tokens)
        decided, notes = self._verify(logits, draft_logits, draft_tokens, lengths)
        rows = torch.cat([torch.stack(decided, 1), draft_tokens], 1).tolist()
        decision = Decision(rows, [] if notes is None else notes.tolist())
        self.phases.mark("verify")
        return decision

    def _verify(
        self,
        logits: Tensor,
        draft_logits: list[Tensor],
        draft_tokens: Tensor,
        lengths: Tensor | None,
    ) -> tuple[list[Tensor], Tensor | None]:
        """Decide which draft tokens stay and which token follows them.

        Returns:
            Accepted, next token and status, int64 [B] each; and where they are wanted, the
            log-probabilities [B, G + 1] of the emitted tokens.
        """
        sampling, wanted = self.settings.sampling, self.settings.log_probabilities
        if not draft_tokens.shape[1]:
            token = self._choose(logits[:, 0], self.offsets, philox.NEXT)
            decided = [torch.zeros_like(token), token, (token < 0).long()]
            place = token.clamp(min=0)[:, None, None]
            notes = sampling.log_probabilities(logits).gather(-1, place)[..., 0] if wanted else None
            return decided, notes
        target, drafted = _alike(logits, [] if sampling.greedy else draft_logits)
        notes = target.new_empty(target.shape[:2], dtype=torch.float32) if wanted else None
        verified = verify(
            target,
            drafted,
            draft_tokens,
            rule=self.settings.rule,
            temperature=sampling.divisor,
            filters=sampling.filters,
            lengths=lengths,
            seed=self.seeds,
            offset=self.offsets,
            log_probabilities=notes,
        )
        if wanted and sampling.greedy:  # to verification the likeliest token is certain
            notes = sampling.log_probabilities(logits).amax(-1)
        return list(verified), notes

    def _look_up(self, lookup: Lookup) -> tuple[Tensor, Tensor]:
        """Find draft tokens in the texts.

        Returns:
            Draft tokens int64 [B, G], -1 after the last of a row, and how many each row has.
        """
        rows = [
            lookup.propose(history, self.gamma, source)
            for history, source in zip(self.histories, self.sources, strict=True)
        ]
        width = max(map(len, rows))
        padded = torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.int64)
        lengths = torch.tensor([len(row) for row in rows])
        return padded.to(self.seeds.device), lengths.to(self.seeds.device)

    def _propose(self, draft: Reader) -> tuple[Tensor, list[Tensor]]:
        """Choose gamma draft tokens, one after the other.

        Returns:
            Draft tokens int64 [B, G], -1 where the draft's logits are at fault, and for each of
            them the logits [B, 1, V] that it was chosen by.
        """
        tokens = self.seeds.new_empty(len(self.seeds), 0)
        rows = []
        unread, counts = _unread(draft, self.histories)
        unread = unread.to(self.seeds.device)
        for t in range(self.gamma):
            logits = _narrowed(draft.read(unread, counts, keep=1))
            logits = fitted(logits, self.settings.vocabulary)
            logits = self._usable(logits, tokens, begins=self.begins and t == 0)
            token = self._choose(logits[:, 0], self.offsets + t, philox.DRAFT)
            rows.append(logits)
            tokens = torch.cat([tokens, token[:, None]], 1)
            unread, counts = token.clamp(min=0)[:, None], [1] * len(counts)
        return tokens, rows

    def _score(self, draft_tokens: Tensor) -> Tensor:
        """The target's logits [B, G + 1, V] for the draft tokens and the token after them, from one
        forward pass."""
        unread, counts = _unread(self.target, self.histories)
        tokens = torch.cat([unread.to(self.seeds.device), draft_tokens.clamp(min=0)], 1)
        width = draft_tokens.shape[1]
        counts = [count + width for count in counts]
        logits = _narrowed(self.target.read(tokens, counts, keep=width + 1))
        self.phases.mark("target")
        logits = self._usable(logits, draft_tokens, begins=self.begins)
        self.phases.mark("rest")
        return logits

    def _usable(self, logits: Tensor, draft_tokens: Tensor, *, begins: bool) -> Tensor:
        """What tokens are chosen by, but for the temperature and the filters, which verification
        applies: logits [B, T, V] after suppression and the processors, in transformers' order.

        Args:
            draft_tokens: those before the last of the T places, int64 [B, D].
            begins: whether the first of the T places is the first of the generated text.
        """
        settings = self.settings
        logits = settings.sampling.suppress(logits, begins=begins)
        return processed(settings.processors, logits, self.texts, draft_tokens, self.paddings)

    def _choose(self, logits: Tensor, offset: Tensor, stream: int) -> Tensor:
        """A token int64 [B] from logits [B, V], at this place of the rows' random numbers; -1 for a
        row at fault."""
        if isinstance(self.settings.rule, Coupled):
            stream = philox.COUPLED
        return sample(
            logits,
            temperature=self.settings.sampling.divisor,
            filters=self.settings.sampling.filters,
            seed=self.seeds,
            offset=offset,
            stream=stream,
        )


def _alike(logits: Tensor, draft_logits: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """The target's logits [B, G + 1, V] and the draft's [B, G, V], of one dtype; None where draft
    tokens were not chosen by logits."""
    if not draft_logits:
        return logits, None
    together = torch.cat(draft_logits, 1)
    common = torch.promote_types(logits.dtype, together.dtype)
    return logits.to(common), together.to(common)


def _narrowed(logits: Tensor) -> Tensor:
    """Logits of a dtype that verification takes: float64 becomes float32."""
    return logits.float() if logits.dtype == torch.float64 else logits


def _unread(model: Reader, histories: list[list[int]]) -> tuple[Tensor, list[int]]:
    """The tokens that a model has not read yet.

    Returns:
        The tokens int64 [B, T], padded on the left, and how many of every row's are no padding.
    """
    rows = [history[n:] for history, n in zip(histories, model.lengths, strict=True)]
    width = max(map(len, rows))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return padded, [len(row) for row in rows]

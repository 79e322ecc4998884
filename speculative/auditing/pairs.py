"""Pairs of table models, ordinary and adversarial, whose outputs can be counted.

A table model is a list of logits: [V] for the first token, [V, V] for the second after every first,
and so on. Its outputs are the V ** (G + 1) sequences of G + 1 tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from speculative.verification import reference_filters
from speculative.verification.filters import Filters

V, GAMMA = 4, 2
"""Tokens of the vocabulary and draft tokens: 64 outputs."""
Tables = list[Tensor]


@dataclass(frozen=True)
class Pair:
    """A target and a draft."""

    name: str
    what: str
    """What is special about it, in words."""
    target: Tables
    """Logits after 0, 1 and 2 tokens."""
    draft: Tables
    """The same; those after 2 tokens are not read."""
    filters: Filters | None = None
    """What drafts and outputs are sampled under; the verifier is told. None: it is told nothing."""

    @cached_property
    def seen_target(self) -> Tables:
        """The target's logits with -inf for what the filters leave out."""
        return [filtered(table, self.filters) for table in self.target]

    @cached_property
    def seen_draft(self) -> Tables:
        """The same of the draft."""
        return [filtered(table, self.filters) for table in self.draft]

    @cached_property
    def target_rows(self) -> Tensor:
        """The target's logits for every draft: [V ** G, G + 1, V]."""
        return _rows(self.target, GAMMA + 1)

    @cached_property
    def draft_rows(self) -> Tensor:
        """The draft's logits for every draft: [V ** G, G, V]."""
        return _rows(self.draft, GAMMA)

    @cached_property
    def drafts(self) -> Tensor:
        """The probability of every draft, float64 [V ** G]."""
        return joint(self.seen_draft[:GAMMA])

    @cached_property
    def outputs(self) -> Tensor:
        """The probability of every output of the target alone, float64 [V ** (G + 1)]."""
        return joint(self.seen_target)

    @cached_property
    def cumulative(self) -> Tables:
        """The target's conditional distributions, summed up, float64 [V ** t, V] each."""
        return [x.double().softmax(-1).cumsum(-1).view(-1, V) for x in self.seen_target]

    @property
    def overlap(self) -> float:
        """The largest share of first draft tokens that an exact verifier can accept."""
        p, q = (x[0].double().softmax(-1) for x in (self.seen_target, self.seen_draft))
        return float(p.minimum(q).sum())

    def of(self, dtype: torch.dtype, device: torch.device) -> "Pair":
        """The same pair, whose logits are rounded to another dtype and lie on a device."""
        target, draft = (
            [x.to(dtype=dtype, device=device) for x in y] for y in (self.target, self.draft)
        )
        return replace(self, target=target, draft=draft)


def random(seed: int = 0) -> Pair:
    """An ordinary pair: normal logits, of which about two thirds of the mass overlap."""
    return Pair("random", "normal logits", _normal(2 * seed), _normal(2 * seed + 1))


def adversarial(seed: int = 0) -> Iterator[Pair]:
    """Pairs at the edges of what a verifier may meet."""
    target, draft = _normal(100 + seed), _normal(200 + seed)
    yield Pair(
        "disjoint supports",
        "no draft token is possible",
        _excluding(target, 0, 1),
        _excluding(draft, 2, 3),
    )
    yield Pair(
        "excluded tokens",
        "-inf for one token of each model",
        _excluding(target, 3),
        _excluding(draft, 0),
    )
    yield Pair("equal models", "p = q, no residual", target, [x.clone() for x in target])
    yield Pair("one-hot target", "one possible output", _excluding(target, 0, 1, 3), draft)
    yield Pair("one-hot draft", "one possible draft", target, _excluding(draft, 0, 1, 3))
    yield Pair("ties", "equal logits, p = q at some tokens", *_each(torch.round, target, draft))
    yield Pair("far apart", "logits from -40 to 40", *_each(lambda x: 16 * x, target, draft))
    yield Pair(
        "shifted logits", "logits near 10,000", *_each(lambda x: 4 * x + 10_000, target, draft)
    )


def under_filters(seed: int = 0) -> Iterator[Pair]:
    """Pairs whose drafts are sampled under filters, which the verifier applies too."""
    target, draft = _normal(300 + seed), _normal(400 + seed)
    for name, what, filters in (
        ("top-k", "the likeliest 2", Filters(top_k=2)),
        ("top-p", "0.8 of the probability", Filters(top_p=0.8)),
        ("min-p", "0.3 of the likeliest", Filters(min_p=0.3)),
        ("all filters", "3, of those 0.9, and 0.1", Filters(top_k=3, top_p=0.9, min_p=0.1)),
    ):
        yield Pair(name, what, target, draft, filters)
    target, draft = _each(torch.round, target, draft)
    yield Pair("top-k of ties", "2 of equal logits", target, draft, Filters(top_k=2))
    yield Pair("top-p of ties", "0.9, equal logits", target, draft, Filters(top_p=0.9))


def filtered(logits: Tensor, filters: Filters | None) -> Tensor:
    """Logits [..., V] with -inf for what filters of numbers leave out, by the reference."""
    if filters is None:
        return logits
    rows = logits.double().cpu().flatten(0, -2) if logits.dim() > 1 else logits.double()[None].cpu()
    kept = reference_filters.filtered(rows.numpy(), *map(float, filters.numbers)) > -np.inf
    keep = torch.from_numpy(kept).view(logits.shape).to(logits.device)
    return logits.masked_fill(~keep, -torch.inf)


def joint(tables: Tables) -> Tensor:
    """The probability of every sequence of as many tokens as there are tables, float64, flat."""
    found = torch.ones(1, dtype=torch.float64, device=tables[0].device)
    for table in tables:
        found = (found[:, None] * table.double().softmax(-1).view(-1, V)).flatten()
    return found


def number(tokens: Tensor) -> Tensor:
    """The number of every sequence of tokens [N, T] among all: int64 [N]."""
    found = torch.zeros_like(tokens[:, 0])
    for place in tokens.unbind(1):
        found = found * V + place
    return found


def sequences(numbers: Tensor, length: int) -> Tensor:
    """The opposite of `number`: int64 [N, length]."""
    return torch.stack([numbers // V**t % V for t in reversed(range(length))], 1)


def _normal(seed: int) -> Tables:
    """Normal logits of all tables."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn([V] * (t + 1), generator=generator) for t in range(GAMMA + 1)]


def _excluding(tables: Tables, *tokens: int) -> Tables:
    """The tables with -inf for these tokens."""
    return [x.index_fill(-1, torch.tensor(tokens), -torch.inf) for x in tables]


def _each(
    change: Callable[[Tensor], Tensor], target: Tables, draft: Tables
) -> tuple[Tables, Tables]:
    """Both models with changed tables."""
    return [change(table) for table in target], [change(table) for table in draft]


def _rows(tables: Tables, count: int) -> Tensor:
    """The logits at `count` places for every draft: [V ** G, count, V]."""
    drafts = V**GAMMA
    rows = [table.reshape(-1, V) for table in tables[:count]]
    return torch.stack([row.repeat_interleave(drafts // len(row), 0) for row in rows], 1)

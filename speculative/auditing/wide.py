"""Checks at large vocabularies, where no output comes twice: tokens are counted by strata.

At every place the tokens with the lowest p / q make the first stratum, those with the highest the
last, with equal shares of p. An error of the ratio, of a normaliser or of the residual moves mass
between them. Tokens after the last multiple of `BLOCK` have a stratum of their own, where kernels
forget the end of a row, and a tenth of the tokens are impossible.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from speculative.auditing.counting import p_value
from speculative.auditing.pairs import GAMMA, filtered
from speculative.auditing.verifier import Verifier, emitted, under
from speculative.verification.filters import Filters
from speculative.verification.reference_filters import ROUNDING

STRATA, BLOCK = 16, 1024
SPREAD, NOISE = 3.0, 0.75
"""The standard deviation of the target's logits, and that of the draft's from them."""
ELEMENTS = 2**22
"""The most logits in a batch."""


@dataclass(frozen=True)
class Rows:
    """Logits that are the same whatever the tokens before."""

    target: Tensor
    """[G + 1, V]; -inf for some tokens."""
    draft: Tensor
    """[G, V]; -inf for half of these, and for others."""
    filters: Filters | None = None
    """What drafts and outputs are sampled under."""

    @cached_property
    def probabilities(self) -> Tensor:
        """The target's distributions, float64 [G + 1, V]."""
        return filtered(self.target, self.filters).double().softmax(-1)

    @cached_property
    def of_draft(self) -> Tensor:
        """The draft's distributions, float64 [G, V]."""
        return filtered(self.draft, self.filters).double().softmax(-1)

    @property
    def possible(self) -> Tensor:
        """Whether an exact verifier may emit a token at a place, bool [G + 1, V]. Rounding decides
        where top_p cuts."""
        if self.filters is None or self.filters.top_p == 1:
            return self.probabilities > 0
        wider = replace(self.filters, top_p=min(1.0, self.filters.top_p * (1 + ROUNDING)))
        return filtered(self.target, wider) > -torch.inf

    @property
    def strata(self) -> Tensor:
        """The stratum of every token at every place, int64 [G + 1, V]; `STRATA` is the end of the
        row."""
        p, q = self.probabilities, self.of_draft
        ratio = torch.cat([p[:-1] / q, p[-1:]])  # no draft stands beside the last place
        order = ratio.nan_to_num(0.0, posinf=float("inf")).argsort(-1)
        share = p.gather(-1, order).cumsum(-1)
        found = torch.empty_like(order)
        found.scatter_(-1, order, (share * STRATA).long().clamp(max=STRATA - 1))
        end = p.shape[-1] // BLOCK * BLOCK
        found[:, end:] = STRATA
        return found


def rows(vocabulary: int, seed: int, device: torch.device, filters: Filters | None = None) -> Rows:
    """Normal logits of a target, and of a draft near it."""
    generator = torch.Generator().manual_seed(seed + vocabulary)
    target = torch.randn(GAMMA + 1, vocabulary, generator=generator) * SPREAD
    draft = target[:-1] + NOISE * torch.randn(GAMMA, vocabulary, generator=generator)
    tenth = max(1, vocabulary // 10)
    impossible = torch.randperm(vocabulary, generator=generator)[: tenth + tenth // 2]
    target[:, impossible[:tenth]] = -torch.inf
    draft[:, impossible[tenth // 2 :]] = -torch.inf
    return Rows(target.to(device), draft.to(device), filters)


def p_of(verifier: Verifier, logits: Rows, outputs: int, seed: int) -> float:
    """The p-value of the tokens of so many outputs being the target's, over strata: that of the
    worst place, times their number. 0 if an impossible token was emitted, or none."""
    device, vocabulary = logits.target.device, logits.target.shape[-1]
    generator = torch.Generator(device).manual_seed(seed)
    own = torch.Generator(device).manual_seed(seed + 1)
    p, q, decide = logits.probabilities, logits.of_draft, under(verifier, logits.filters)
    tokens = q.multinomial(outputs, replacement=True, generator=generator).t().contiguous()
    whole = p.multinomial(outputs, replacement=True, generator=generator).t().contiguous()
    size = max(1, ELEMENTS // logits.target.numel())
    for start in range(0, outputs, size):
        drafts = tokens[start : start + size]
        batch = [x.expand(len(drafts), -1, -1).clone() for x in (logits.target, logits.draft)]
        found = emitted(decide, batch[0], batch[1], drafts, own)
        if bool((found[:, 0] < 0).any()) or int(found.max()) >= vocabulary:
            return 0.0
        places = whole[start : start + size]
        places.copy_(torch.where(found < 0, places, found))
    if not bool(logits.possible.t().gather(0, whole).all()):
        return 0.0
    strata, worst = logits.strata, 1.0
    for t in range(GAMMA + 1):
        counts = strata[t][whole[:, t]].bincount(minlength=STRATA + 1)
        expected = torch.zeros(STRATA + 1, dtype=torch.float64, device=device)
        expected.index_add_(0, strata[t], p[t])
        worst = min(worst, p_value(counts, expected))
    return min(1.0, worst * (GAMMA + 1))

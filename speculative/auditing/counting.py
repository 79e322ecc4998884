"""Counts the outputs of a verifier on a pair, and judges the counts by chi-square.

How many outputs are enough follows from what shall be seen. If a verifier is off by a total
variation d, the statistic of a chi-square test with N outputs has a noncentrality of at least
4 N d^2 (by Cauchy and Schwarz, from sum |o - p| = 2 d). `draws` solves for N.
"""

from dataclasses import dataclass, field

import scipy.optimize  # type: ignore[import-untyped]
import scipy.stats  # type: ignore[import-untyped]
import torch
from torch import Tensor

from speculative.auditing.pairs import GAMMA, Pair, V, number, sequences
from speculative.auditing.verifier import Verifier, emitted, under
from speculative.experiments import chi_square

LEAST_P = 1e-5
"""A smaller p-value says that a verifier is wrong."""
POWER = 0.95
"""The probability with which an error of the size that shall be seen is seen."""
ENOUGH = 1e-12
"""A p-value so small that counting stops."""
CHUNK = 2**16
"""Outputs between two looks at the p-value, and sequences in a batch."""


def noncentrality(cells: int) -> float:
    """The noncentrality at which a test over so many cells rejects with probability `POWER`."""
    freedom = max(1, cells - 1)
    limit = scipy.stats.chi2.isf(LEAST_P, freedom)
    return float(
        scipy.optimize.brentq(
            lambda x: scipy.stats.ncx2.sf(limit, freedom, x) - POWER, 1e-3, 100 + 10 * limit
        )
    )


def draws(total_variation: float, cells: int = V ** (GAMMA + 1)) -> int:
    """How many outputs show an error of this total variation, whatever its form."""
    return int(noncentrality(cells) / (4 * total_variation**2)) + 1


def visible(count: int, cells: int) -> float:
    """The total variation that so many outputs show: the opposite of `draws`."""
    return float((noncentrality(cells) / (4 * count)) ** 0.5)


@dataclass
class Tally:
    """What was counted of one pair."""

    pair: Pair
    outputs: Tensor = field(init=False)
    """How often every output was emitted, int64 [V ** (G + 1)]."""
    neighbours: Tensor = field(init=False)
    """How often the first tokens of two sequences that stand side by side in a batch were these
    two, int64 [V * V]."""
    faulty: int = 0
    """Outputs without a token, with one outside the vocabulary, or with accepted tokens that are
    not the draft's."""
    first_accepted: int = 0
    """Outputs whose first token may be the draft's."""
    drawn: int = 0

    def __post_init__(self) -> None:
        device = self.pair.outputs.device
        self.outputs = torch.zeros(V ** (GAMMA + 1), dtype=torch.int64, device=device)
        self.neighbours = torch.zeros(V * V, dtype=torch.int64, device=device)

    def add(self, found: Tensor, tokens: Tensor, uniforms: Tensor) -> None:
        """Count what was emitted for drafts.

        Args:
            found: emitted tokens, int64 [N, G + 1], -1 after the last.
            tokens: the drafts, int64 [N, G].
            uniforms: float64 [N, G + 1], which complete the outputs.
        """
        held = (found >= 0).sum(1)
        before = torch.arange(GAMMA, device=found.device) < (held - 1)[:, None]
        unlike = ((found[:, :GAMMA] != tokens) & before).any(1)
        bad = (held == 0) | (found >= V).any(1) | unlike
        self.faulty += int(bad.sum())
        self.drawn += len(found)
        self.first_accepted += int(((held > 1) & ~bad).sum())
        first = found[: len(found) // 2 * 2, 0].clamp(0, V - 1).view(-1, 2)
        self.neighbours += number(first).bincount(minlength=V * V)
        whole = completed(self.pair, found[~bad], uniforms[~bad])
        self.outputs += number(whole).bincount(minlength=len(self.outputs))

    @property
    def p(self) -> float:
        """The p-value of the outputs being the target's."""
        return p_value(self.outputs, self.pair.outputs)

    @property
    def neighbours_p(self) -> float:
        """The p-value of neighbours in a batch being independent and the target's."""
        first = self.pair.seen_target[0].double().softmax(-1)
        return p_value(self.neighbours, (first[:, None] * first).flatten())

    @property
    def total_variation(self) -> float:
        """How far the counts are from the target's distribution; chance has its share in it."""
        found = self.outputs / self.outputs.sum().clamp(min=1)
        return float((found - self.pair.outputs).abs().sum() / 2)

    @property
    def by_chance(self) -> float:
        """The total variation that an exact verifier's counts have on average."""
        p = self.pair.outputs
        return float((p * (1 - p) / max(1, self.drawn)).sqrt().sum() / (2 * torch.pi) ** 0.5)


def count(
    pair: Pair, verifier: Verifier, outputs: int, generator: torch.Generator, seed: int
) -> Tally:
    """Let a verifier decide drafts of a pair, under the pair's filters, until there are enough
    outputs, or it is clearly wrong.

    Args:
        generator: decides the drafts, and what completes the outputs.
        seed: that of the verifier's own generator.
    """
    device = pair.outputs.device
    own = torch.Generator(device).manual_seed(seed)
    tally, decide = Tally(pair), under(verifier, pair.filters)
    while tally.drawn < outputs and not tally.faulty and tally.p > ENOUGH:
        numbers = drawn(pair, min(CHUNK, outputs - tally.drawn), generator)
        rows = pair.target_rows[numbers], pair.draft_rows[numbers]
        tokens = sequences(numbers, GAMMA)
        found = emitted(decide, *rows, tokens, own)
        shape = len(tokens), GAMMA + 1
        uniforms = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        tally.add(found, tokens, uniforms)
    return tally


def drawn(pair: Pair, size: int, generator: torch.Generator) -> Tensor:
    """The numbers of drafts that are sampled from the pair's draft, int64 [size]."""
    return pair.drafts.multinomial(size, replacement=True, generator=generator)


def completed(pair: Pair, found: Tensor, uniforms: Tensor) -> Tensor:
    """Emitted tokens [N, G + 1], whose empty places are filled by sampling from the target."""
    whole = found.clone()
    for t in range(1, GAMMA + 1):
        rows = (whole[:, t] < 0).nonzero()[:, 0]
        sums = pair.cumulative[t][number(whole[rows, :t])]
        fresh = (uniforms[rows, t, None] * sums[:, -1:] >= sums).sum(1)
        whole[rows, t] = fresh.clamp(max=V - 1)
    return whole


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """The p-value of counts under probabilities; 0 if something impossible was counted."""
    possible = probabilities > 0
    if int(counts[~possible].sum()):
        return 0.0
    if int(possible.sum()) < 2 or not int(counts.sum()):
        return 1.0
    expected = probabilities[possible] / probabilities.sum() * counts.sum()
    if float(expected.sort().values[-2]) < chi_square.RARE:  # all but one output are rare
        return 1.0
    return chi_square.p_value(counts[possible].cpu().numpy(), expected.cpu().numpy())

"""Do emitted tokens follow the target? A joint chi-square test over complete outputs answers.

A model here is a table: the logits of the next token given all tokens before. An output is the
accepted draft tokens and the token after them, completed to gamma + 1 tokens by sampling from the
target. With exact verification such outputs are distributed as the target's own.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.stats  # type: ignore[import-untyped]
import torch
from torch import Tensor

from speculative.verification import philox

V, GAMMA, N = 4, 2, 200_000
RARE = 5
"""Cells whose expected count is smaller are united."""

Verify = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes target logits, draft logits, draft tokens and uniforms to the accepted number and the next
token, [B] each."""


class TableModel:
    """A random model: logits [V] after no token, [V, V] after one token, [V, V, V] after two."""

    def __init__(self, seed: int, spread: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tables = [torch.randn(*[V] * (t + 1), generator=generator) * spread for t in range(3)]

    def rows(self, tokens: Tensor) -> Tensor:
        """The logits after each prefix of `tokens` [N, G]: [N, G + 1, V]."""
        first = self.tables[0].expand(len(tokens), V)
        after_one = self.tables[1][tokens[:, 0]]
        return torch.stack([first, after_one, self.tables[2][tokens[:, 0], tokens[:, 1]]], 1)

    def joint(self) -> Tensor:
        """The probability of every output, float64 [V, V, V]."""
        a, b, c = (table.double().softmax(-1) for table in self.tables)
        return a[:, None, None] * b[:, :, None] * c


def outputs(
    target: TableModel, draft: TableModel, decide: Verify, seed: int, *, greedy: bool = False
) -> Tensor:
    """N outputs, [N, GAMMA + 1], of speculative decoding with the verifier `decide`.

    `greedy`: whether the draft proposes its best tokens instead of sampled ones.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(logits: Tensor) -> Tensor:
        return logits.softmax(-1).multinomial(1, generator=generator)[:, 0]

    tokens = torch.zeros(N, GAMMA, dtype=torch.int64)
    for t in range(GAMMA):
        logits = draft.rows(tokens)[:, t]
        tokens[:, t] = logits.argmax(-1) if greedy else draw(logits)
    u = torch.rand(N, GAMMA + V + philox.groups(V), generator=generator)
    z, y = target.rows(tokens), draft.rows(tokens)[:, :GAMMA]
    accepted, following = decide(z, y, tokens, u)
    out = torch.cat([tokens, following[:, None]], 1)
    out.scatter_(1, accepted[:, None], following[:, None])
    for t in (1, 2):  # complete what a rejection cut short
        fresh = draw(target.rows(out[:, :GAMMA])[:, t])
        out[:, t] = torch.where(accepted < t, fresh, out[:, t])
    return out


def p_value_of(out: Tensor, target: TableModel) -> float:
    """The p-value of outputs [N, GAMMA + 1] under the hypothesis that they follow the target."""
    cells = (out[:, 0] * V + out[:, 1]) * V + out[:, 2]
    counts = torch.bincount(cells, minlength=V**3)
    return p_value(counts.numpy(), target.joint().flatten().numpy() * len(out))


def p_value(observed: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """The p-value of a chi-square test over cells; 0 if an impossible cell was seen.

    Args:
        observed, expected: the counts of every cell; both have the same sum.
    """
    seen, hoped = np.asarray(observed, np.float64), np.asarray(expected, np.float64)
    if (seen[hoped == 0] > 0).any():
        return 0.0
    often = hoped >= RARE
    seen = np.append(seen[often], seen[~often].sum())
    hoped = np.append(hoped[often], hoped[~often].sum())
    if hoped[-1] < RARE:
        seen[-2] += seen[-1]
        hoped[-2] += hoped[-1]
        seen, hoped = seen[:-1], hoped[:-1]
    return float(scipy.stats.chisquare(seen, hoped * (seen.sum() / hoped.sum())).pvalue)

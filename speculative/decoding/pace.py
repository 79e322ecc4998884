"""Adaptive gamma: so many draft tokens a step as pay, by what drafting costs and gains.

If every draft token is accepted with probability a, a step of g draft tokens gives

    tokens(g) = 1 + a + ... + a^g

on average (Leviathan et al. 2023, equation 1), and takes g draft passes and one step of the target,
whose time depends on g. The g with the most tokens per second is taken, and it may be 0: then the
target goes on alone, and drafting is tried again from time to time.
"""

from collections import deque
from dataclasses import dataclass
from statistics import median

import numpy as np

from systems.schema import InputError

DECAY = 0.95
"""How much a step's acceptance counts after the next one."""
KEPT = 9
"""The times of so many steps are kept, of which the median counts."""
REST = 32
"""After so many steps another gamma is tried once."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveGamma:
    """Lets `generate` choose how many tokens the draft proposes, up to `most`.

    Greedy texts stay what they are. Sampled ones stay exactly distributed, but which of them comes
    at a seed depends on how fast the machine was.

    Raises:
        InputError: `most` is below 1.
    """

    most: int = 8

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InputError(f"AdaptiveGamma(most={self.most}): give 1 or more")


class Pace:
    """Chooses gamma step by step.

    The first step reads the prompts, so that its time is no guide. The next ones measure a long
    draft and the target alone, and then the best is taken.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._steps = 0
        self._accepted, self._tested = 1.0, 2.0  # as if one of two had been accepted
        self._token_s: deque[float] = deque(maxlen=KEPT)
        self._step_s: dict[int, deque[float]] = {}
        self._before = 0

    def gamma(self) -> int:
        """How many tokens to draft in the next step."""
        if self._steps < 3:
            return self.most
        if self._steps < 5:
            return 0
        best = self.best()
        if self._steps % REST == 0:
            return 0 if best else max(1, self.most // 2)
        return best

    def best(self) -> int:
        """The gamma with the most tokens per second, as far as is known."""
        return max(range(self.most + 1), key=self.tokens_per_s)

    def tokens_per_s(self, gamma: int) -> float:
        """How many tokens a sequence is expected to gain per second with this gamma."""
        rate = self._accepted / self._tested
        tokens = sum(rate**n for n in range(gamma + 1))
        known = sorted(self._step_s)
        step_s = np.interp(gamma, known, [median(self._step_s[g]) for g in known])
        return float(tokens / (gamma * median(self._token_s or [0.0]) + step_s))

    def saw(
        self, gamma: int, *, tested: int, accepted: int, draft_s: float, other_s: float
    ) -> None:
        """Learn from a step.

        Args:
            gamma: the draft tokens of the step.
            tested, accepted: of all sequences: how many draft tokens had their turn, and stayed.
            draft_s, other_s: the seconds of drafting, and of the rest of the step.
        """
        self._steps += 1
        self._accepted = DECAY * self._accepted + accepted
        self._tested = DECAY * self._tested + tested
        if self._steps > 1:
            self._step_s.setdefault(gamma, deque(maxlen=KEPT)).append(other_s)
            if gamma and self._before:  # else the draft has read what the target wrote alone
                self._token_s.append(draft_s / gamma)
        self._before = gamma

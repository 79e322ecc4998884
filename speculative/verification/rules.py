"""Rules of verification: when a draft token is accepted, and what follows a rejection.

A rule is a small frozen value. `verify`, `generate` and `assisted` take one:

    from speculative.verification.rules import Sigmoid

    verify(target_logits, draft_logits, draft_tokens, rule=Sigmoid(alpha=-1e3, beta=1e3))

p and q are the softmax of the target's and of the draft's logits, x is the draft token, z and y are
its two logits, already divided by the temperature (more terms in `speculative.verification`).

    rule        a draft token is accepted with probability    a rejection samples from
    Exact       min(1, p(x) / q(x))                           max(0, p - q)
    Block       (the longest block that a number allows)      max(0, share p - q)
    Coupled     1 if the target would take x itself, else 0   (the target's own token follows)
    Sigmoid     min(1, s(z) / s(y)), s a wide sigmoid         max(0, s(target) - s(draft))
    Calibrated  r(z, y), an estimate of p(x) / q(x)           max(0, p - q r)

Exact, Block and Coupled emit the target's distribution. At temperature 0 all rules are greedy: a
draft token is accepted if it is the target's likeliest, the lowest number among equals.

A new rule is a class here, listed in `Rule`. Its arithmetic stands in `reference` (float64, the
meaning), `arithmetic` (PyTorch) and `csrc/arithmetic.h`; `speculative.options` gives it a name on
the command line. The operator and the decoding loops pass rules on without looking into them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, get_args

from systems.schema import InputError


@dataclass(frozen=True)
class Exact:
    """Emitted tokens are distributed exactly as if the target had been sampled alone (Leviathan et
    al. 2023; arXiv 2406.11016, section 2)."""

    name: ClassVar[str] = "exact"
    code: ClassVar[int] = 0
    """The rule's number in the kernels: `Method` in csrc/arithmetic.h."""

    @property
    def parameters(self) -> list[float]:
        """The rule's numbers as the kernels read them: there are none."""
        return []


@dataclass(frozen=True)
class Sigmoid:
    """The approximation of arXiv 2406.11016, section 3.2: softmax is replaced by
    sigmoid((z / temperature - alpha) / (beta - alpha)), which needs no sum over the vocabulary.

    The approximation is not exact. Between wide limits the sigmoid is almost flat: the weights of
    all tokens are nearly equal, nearly every draft token is accepted, and what is emitted follows
    mostly the draft. Narrow limits do not repair this, since the weights never sum to one.

    Raises:
        InputError: a limit is not a finite number, or alpha is not below beta.
    """

    name: ClassVar[str] = "sigmoid"
    code: ClassVar[int] = 1

    alpha: float = -1e4
    """The lower limit, in units of logits divided by temperature."""
    beta: float = 1e4
    """The upper limit."""

    def __post_init__(self) -> None:
        _check_numbers(alpha=self.alpha, beta=self.beta)
        if not -math.inf < self.alpha < self.beta < math.inf:
            raise InputError(
                f"alpha {self.alpha}, beta {self.beta}: alpha must be below beta, both finite"
            )

    @property
    def parameters(self) -> list[float]:
        """The limits, in the order of `SigmoidParameters` in csrc/arithmetic.h."""
        return [self.alpha, self.beta]


@dataclass(frozen=True)
class Calibrated:
    """An approximation near the target's distribution: p(x) / q(x) is estimated from the two logits
    of x as exp(intercept + target_slope z / temperature + draft_slope y / temperature), at most 1.

    `speculative.verification.calibration.fit` makes one for a pair of models, and explains it.

    Raises:
        InputError: one of the numbers is not finite.
    """

    name: ClassVar[str] = "calibrated"
    code: ClassVar[int] = 2

    intercept: float
    target_slope: float
    draft_slope: float

    def __post_init__(self) -> None:
        numbers = {
            "intercept": self.intercept,
            "target_slope": self.target_slope,
            "draft_slope": self.draft_slope,
        }
        _check_numbers(**numbers)
        if not all(map(math.isfinite, self.parameters)):
            raise InputError(f"calibration {tuple(self.parameters)}: give finite numbers")

    @property
    def parameters(self) -> list[float]:
        """The numbers, in the order of `CalibratedParameters` in csrc/arithmetic.h."""
        return [self.intercept, self.target_slope, self.draft_slope]


@dataclass(frozen=True)
class Block:
    """Block verification (arXiv 2403.10444): as exact as `Exact`, and never accepts fewer draft
    tokens in expectation, since it decides on all of them together.

    With share(0) = 1 and share(i) = min(1, share(i - 1) p(x_i) / q(x_i)), a block of i tokens is
    allowed with probability h(i) = S / (S + 1 - share(i)), where S is the total of
    max(0, share(i) p - q) at the place after it, and h(gamma) = share(gamma). The longest allowed
    one is accepted. It reads the rows of all draft tokens.
    """

    name: ClassVar[str] = "block"
    code: ClassVar[int] = 3

    @property
    def parameters(self) -> list[float]:
        """There are none."""
        return []


@dataclass(frozen=True)
class Coupled:
    """Target and draft take every token with the same noise, one number for every token at every
    position of a request (Gumbel-max coupling, arXiv 2408.07978).

    What is emitted are the very tokens that the target alone takes at this seed, whatever the draft
    and gamma. The draft's logits are not read: any guess can be verified. It accepts somewhat
    fewer tokens than `Exact`. Sample drafts, and the target alone, with
    `sample(..., stream=philox.COUPLED)`.
    """

    name: ClassVar[str] = "coupled"
    code: ClassVar[int] = 4

    @property
    def parameters(self) -> list[float]:
        """There are none."""
        return []


Rule = Exact | Sigmoid | Calibrated | Block | Coupled
EXACT = Exact()
RULES: tuple[type[Rule], ...] = get_args(Rule)
METHODS = tuple(rule.name for rule in RULES)
"""The names of all rules."""


def decoded(code: int, parameters: Sequence[float]) -> Rule:
    """The rule with this `code` and these `parameters`: what the torch operator was given."""
    kind = next(rule for rule in RULES if rule.code == code)
    return kind(*parameters)


def check_rule(rule: object) -> None:
    """Refuse what is not a rule.

    Raises:
        InputError: names the value and the rules that there are.
    """
    if not isinstance(rule, RULES):
        raise InputError(
            f"rule {rule!r}: give Exact(), Block(), Coupled(), Sigmoid(...) or Calibrated(...) of "
            "speculative.verification.rules"
        )


def _check_numbers(**values: object) -> None:
    """Refuse values that are not numbers, under the names that they are given by."""
    for name, value in values.items():
        if not isinstance(value, (int, float)):
            raise InputError(f"{name} {value!r}: give a number")

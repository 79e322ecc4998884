"""The control: verifiers that are wrong, which the same checks must reject, and one that is right.

Without it, "nothing found" may mean that nothing would ever be found.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from speculative.auditing import pairs
from speculative.auditing.counting import LEAST_P, count
from speculative.auditing.pairs import GAMMA, Pair
from speculative.auditing.verifier import Verifier
from speculative.experiments import filter_mutants, mutants
from speculative.verification import philox
from speculative.verification.filters import Filters

COARSE_BITS = 6


def sound() -> Verifier:
    """The textbook's verifier."""
    return _drawing(mutants.correct)


def wrong(pair: Pair, total_variation: float) -> Iterator[tuple[str, Verifier]]:
    """Wrong verifiers and their names. The last one is off by `total_variation` on the pair."""
    for mutant in (*mutants.SAMPLING, mutants.residual_floor):
        yield mutant.__name__.replace("_", " "), _drawing(mutant)
    yield "one number for all sequences", _drawing(mutants.correct, _same_for_all)
    yield f"random numbers of {COARSE_BITS} bits", _drawing(mutants.correct, _coarse)
    yield f"off by {total_variation:g}", _off_by(pair, total_variation)


def missed(
    total_variation: float, outputs: int, device: torch.device, *, filters: bool = False
) -> tuple[list[str], int]:
    """The control verifiers that the checks judge wrongly, and how many there are in all.

    Args:
        outputs: how many outputs each of them emits at the most, of every pair.
        filters: whether those with wrong filters are among them.
    """
    ordinary = pairs.random().of(torch.float32, device)
    excluding = next(p for p in pairs.adversarial() if p.name == "excluded tokens")
    trial = ordinary, excluding.of(torch.float32, device)
    names, total = [], 1
    if rejected(sound(), trial, outputs):
        names.append("the textbook's, which is right")
    for name, verifier in wrong(ordinary, total_variation):
        total += 1
        if not rejected(verifier, trial, outputs):
            names.append(name)
    if not filters:
        return names, total
    under_filters = tuple(pair.of(torch.float32, device) for pair in pairs.under_filters())
    if rejected(_drawing(filter_mutants.right), under_filters, outputs):
        names.append("the textbook's under filters, which is right")
    for name, mutant in filter_mutants.WRONG.items():
        if not rejected(_drawing(mutant), under_filters, outputs):
            names.append(f"filters, {name}")
    return names, total + 1 + len(filter_mutants.WRONG)


def rejected(verifier: Verifier, trial: tuple[Pair, ...], outputs: int) -> bool:
    """Whether one of the pairs shows that a verifier is wrong."""
    for pair in trial:
        generator = torch.Generator(pair.outputs.device).manual_seed(1)
        tally = count(pair, verifier, outputs, generator, seed=2)
        if tally.faulty or min(tally.p, tally.neighbours_p) < LEAST_P:
            return True
    return False


def _drawing(
    decide: Callable[..., tuple[Tensor, ...]], change: Callable[[Tensor], Tensor] = lambda u: u
) -> Verifier:
    """A verifier of given uniforms, as one that draws them, changed or not."""

    def verify(
        z: Tensor, y: Tensor, tokens: Tensor, generator: torch.Generator, **options: Filters
    ) -> tuple[Tensor, ...]:
        return decide(z, y, tokens, change(_uniforms(y, generator)), **options)

    return verify


def _uniforms(draft: Tensor, generator: torch.Generator) -> Tensor:
    """The numbers that verification takes for draft logits [B, G, V], float64."""
    batch, gamma, vocabulary = draft.shape
    width = philox.verification_uniforms(1, gamma, vocabulary, 0, 0).shape[1]
    return torch.rand((batch, width), generator=generator, dtype=torch.float64, device=draft.device)


def _same_for_all(u: Tensor) -> Tensor:
    """The first sequence's numbers for all of a batch of two; batches are cut into pairs."""
    return u[::2].repeat_interleave(2, 0)[: len(u)]


def _coarse(u: Tensor) -> Tensor:
    """Numbers of few bits, as of a bad generator."""
    return (u * 2**COARSE_BITS).floor() / 2**COARSE_BITS


def _off_by(pair: Pair, total_variation: float) -> Verifier:
    """A verifier that now and then accepts whatever is possible: so often that its outputs are off
    by this total variation."""
    lenient = pairs.joint([*pair.draft[:GAMMA], pair.target[GAMMA]])
    share = total_variation / float((lenient - pair.outputs).abs().sum() / 2)

    def verify(
        z: Tensor, y: Tensor, tokens: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        u = _uniforms(y, generator)
        careless = torch.rand((len(u), 1), generator=generator, device=u.device) < share
        u[:, :GAMMA].masked_fill_(careless, 0.0)
        return mutants.correct(z, y, tokens, u)

    return verify

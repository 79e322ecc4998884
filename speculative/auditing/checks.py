"""The checks of an audit, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from speculative.auditing import control, pairs, wide
from speculative.auditing.counting import LEAST_P, Tally, count, drawn, draws, visible
from speculative.auditing.pairs import GAMMA, Pair, sequences
from speculative.auditing.verifier import Verifier, emitted, takes_filters
from speculative.verification.filters import Filters
from systems import by_path
from systems.schema import InputError

COARSER = 5.0
"""How many times larger the errors are that are looked for on all pairs but the ordinary one."""
WEAKEST = 0.01
"""The error of the weakest of the wrong verifiers, but for the last, which is off by what shall be
seen. Their outputs must show it, even if less is asked of the audit."""
FEW = 256
"""The sequences on which random numbers and inputs are looked at."""
FEWER = 16
"""The share of a large vocabulary that top-k keeps is one in so many."""
MOST_WIDE, WIDE_ELEMENTS = 100_000, 6e8
"""The most outputs at a large vocabulary, and outputs times tokens of the vocabulary."""

Result = Literal["ok", "WRONG", "note"]


@dataclass(frozen=True)
class Check:
    """A question and its answer."""

    name: str
    result: Result
    """"note" is a property that has nothing to do with being exact."""
    found: str

    def __str__(self) -> str:
        return f"| {self.name} | {self.result} | {self.found} |"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an audit does."""

    total_variation: float
    vocabularies: Sequence[int]
    seed: int
    device: torch.device
    controlled: bool

    def pair(self, pair: Pair, dtype: torch.dtype = torch.float32) -> Pair:
        """The pair where the verifier is, with logits of this dtype."""
        return pair.of(dtype, self.device)

    @property
    def ordinary(self) -> Pair:
        """The pair that most outputs are emitted for."""
        return self.pair(pairs.random())

    def count(self, pair: Pair, verifier: Verifier, outputs: int) -> Tally:
        """Count outputs, with the audit's seed."""
        generator = torch.Generator(self.device).manual_seed(self.seed + 1)
        return count(pair, verifier, outputs, generator, self.seed + 2)


def checks(verifier: Verifier, plan: Plan) -> Iterator[Check]:
    """Make all checks, and yield each when it is done.

    Raises:
        InputError: the verifier fails on ordinary inputs, or its answers are of no known form.
    """
    yield from _manners(verifier, plan)
    many, some = draws(plan.total_variation), draws(COARSER * plan.total_variation)
    tally = plan.count(plan.ordinary, verifier, many)
    yield _judged("random", tally)
    yield _neighbours(tally)
    yield _acceptance(tally)
    for pair in pairs.adversarial():
        yield _tried(pair.name, partial(plan.count, plan.pair(pair), verifier, some))
    for dtype in (torch.float16, torch.bfloat16):
        pair = plan.pair(pairs.random(), dtype)
        name = str(dtype).removeprefix("torch.")
        yield _tried(name, partial(plan.count, pair, verifier, some), refusable=True)
    others = partial(plan.count, plan.ordinary, _among_others(verifier), some)
    yield _tried("uneven batch", others)
    for vocabulary in plan.vocabularies:
        yield _wide(verifier, vocabulary, plan)
    filters = takes_filters(verifier)
    if filters:
        yield from _under_filters(verifier, plan, some)
    else:
        yield Check("filters", "note", "not audited: the verifier takes no `filters`")
    if plan.controlled:
        yield _control(plan, max(many, draws(WEAKEST)), filters=filters)


def _under_filters(verifier: Verifier, plan: Plan, outputs: int) -> Iterator[Check]:
    """The checks of a verifier that filters."""
    for pair in pairs.under_filters():
        yield _tried(pair.name, partial(plan.count, plan.pair(pair), verifier, outputs))
    for vocabulary in plan.vocabularies:
        few = Filters(top_k=max(1, vocabulary // FEWER), top_p=0.9)
        yield _wide(verifier, vocabulary, plan, few)


def _manners(verifier: Verifier, plan: Plan) -> Iterator[Check]:
    """How the verifier treats its generator, its batch and its inputs."""
    pair = plan.ordinary
    generator = torch.Generator(plan.device).manual_seed(plan.seed)
    numbers = drawn(pair, FEW, generator)
    target, draft = pair.target_rows[numbers], pair.draft_rows[numbers]
    tokens = sequences(numbers, GAMMA)
    kept = target.clone(), draft.clone(), tokens.clone()

    def decide(seed: int, size: int = FEW) -> Tensor:
        z, y, x = (part[:size].clone() for part in kept)
        return emitted(verifier, z, y, x, torch.Generator(plan.device).manual_seed(seed))

    try:
        emitted(verifier, target, draft, tokens, torch.Generator(plan.device).manual_seed(3))
        first, again, other, alone = decide(3), decide(3), decide(4), decide(3, 1)
    except InputError:
        raise
    except Exception as error:  # the user's own code runs here
        raise InputError(f"verifier: fails on ordinary logits: {by_path.failure(error)}") from error
    same = all(map(torch.equal, kept, (target, draft, tokens)))
    yield _manner("inputs stay as they were", same, "it writes into its inputs")
    yield _manner("equal seeds, equal tokens", torch.equal(first, again), "it does not repeat")
    yield _manner("other seeds, other tokens", not torch.equal(first, other), "seeds do nothing")
    yield _manner(
        "a sequence alone, as in its batch",
        torch.equal(first[:1], alone),
        "the tokens of the first of 256 sequences depend on the others being there",
    )


def _manner(name: str, kept: bool, otherwise: str) -> Check:
    """A check of manners, which say nothing about distributions."""
    return Check(name, "ok" if kept else "note", "yes" if kept else otherwise)


def _tried(name: str, counted: Callable[[], Tally], *, refusable: bool = False) -> Check:
    """The check of a pair on which a verifier may fail.

    Args:
        refusable: whether an error says that the verifier does not take such inputs.
    """
    try:
        return _judged(name, counted())
    except Exception as error:  # the user's own code runs here
        return Check(name, "note" if refusable else "WRONG", _refusal(error))


def _judged(name: str, tally: Tally) -> Check:
    """Whether the outputs that were counted are the target's."""
    special = f"{tally.pair.what}: " if name == tally.pair.name else ""
    wrong, found = _outcome(tally)
    return Check(name, "WRONG" if wrong else "ok", special + found)


def _outcome(tally: Tally) -> tuple[bool, str]:
    """Whether what was counted speaks against a verifier, and how, in words."""
    size, possible = f"{tally.drawn:,}", tally.pair.outputs > 0
    if tally.faulty:
        return True, (
            f"{tally.faulty} of {size} outputs without a token, with one outside the vocabulary, "
            "or with accepted tokens that are not the draft's"
        )
    if impossible := int(tally.outputs[~possible].sum()):
        return True, f"{impossible} of {size} outputs are impossible for the target"
    if tally.p < LEAST_P:
        return True, (
            f"p = {tally.p:.1g} at {size} outputs; total variation about "
            f"{tally.total_variation:.4f}, by chance {tally.by_chance:.4f}"
        )
    cells = int(possible.sum())
    if cells == 1:
        return False, f"{size} times the only possible output"
    shown = visible(tally.drawn, cells)
    return False, f"p = {tally.p:.2g} at {size} outputs, which show errors of {shown:.2g}"


def _neighbours(tally: Tally) -> Check:
    """Whether sequences of a batch are independent of each other."""
    name, p = "independent neighbours", tally.neighbours_p
    if p >= LEAST_P:
        return Check(name, "ok", f"p = {p:.2g} over the first tokens of neighbours")
    if tally.p < LEAST_P:
        return Check(name, "note", "not told apart from wrong outputs")
    return Check(name, "WRONG", f"p = {p:.1g} over the first tokens of neighbours")


def _acceptance(tally: Tally) -> Check:
    """How often the first draft token stays, beside the best that an exact verifier can do."""
    share = tally.first_accepted / max(1, tally.drawn)
    most = f"{tally.pair.overlap:.4f} is the most that is exact"
    return Check("first draft token accepted", "note", f"{share:.4f}; {most}")


def _among_others(verifier: Verifier) -> Verifier:
    """The verifier, which gets a sequence of other logits before each one, and whose answers on
    these are dropped."""

    def verify(target: Tensor, draft: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        other = target.new_full(target.shape, -torch.inf)
        other[..., 1] = 1000.0
        other_tokens = torch.ones_like(tokens)
        z, y, x = (
            torch.stack([a, b], 1).flatten(0, 1)
            for a, b in ((other, target), (other[:, :GAMMA], draft), (other_tokens, tokens))
        )
        return emitted(verifier, z, y, x, generator)[1::2]

    return verify


def _wide(verifier: Verifier, vocabulary: int, plan: Plan, filters: Filters | None = None) -> Check:
    """Whether the tokens at a large vocabulary are the target's."""
    name = f"vocabulary {vocabulary:,}" + (", filtered" if filters else "")
    rows = wide.rows(vocabulary, plan.seed, plan.device, filters)
    scale = min(1.0, (0.002 / plan.total_variation) ** 2)
    size = max(500, int(scale * min(MOST_WIDE, WIDE_ELEMENTS / vocabulary)))
    try:
        p = wide.p_of(verifier, rows, size, plan.seed)
    except Exception as error:  # the user's own code runs here
        return Check(name, "WRONG", _refusal(error))
    seen = visible(size, wide.STRATA + 1)
    found = f"p = {p:.2g} at {size:,} outputs by strata, which show errors of {seen:.2g}"
    return Check(name, "WRONG" if p < LEAST_P else "ok", found)


def _control(plan: Plan, outputs: int, *, filters: bool) -> Check:
    """Whether the checks reject verifiers that are wrong, and pass one that is right."""
    names, total = control.missed(plan.total_variation, outputs, plan.device, filters=filters)
    if names:
        return Check("control", "WRONG", f"misjudged: {', '.join(names)}")
    wrong = total - (2 if filters else 1)
    found = (
        f"{wrong} of {wrong} wrong verifiers rejected, one of them off by "
        f"{plan.total_variation:g}; the textbook's passes"
    )
    return Check("control", "ok", found)


def _refusal(error: Exception) -> str:
    """What an error says, in a cell of a table."""
    said = str(error) if isinstance(error, InputError) else by_path.failure(error)
    return f"refused: {said}".replace("|", "\\|")

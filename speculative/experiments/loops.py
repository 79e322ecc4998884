"""Times our decoding loop on a batch against transformers' loop on one sequence after the other.

    from speculative.experiments.loops import compare, shown

    print(shown(compare(target, draft, inputs)))

All loops draft the same number of tokens a step. Within a repetition they take turns, so that
whatever else the machine does falls on all of them.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from speculative.decoding.assisted import assisted
from speculative.decoding.decode import generate
from speculative.decoding.generation import Statistics
from speculative.experiments.enumeration import draft_always
from systems.figures.text import table
from systems.measure import Spread, spread, timed

Loop = Callable[[], Statistics]


@dataclass(frozen=True, kw_only=True)
class Row:
    """How fast one loop is."""

    loop: str
    tokens_per_s: Spread
    """New tokens of all sequences per second, the median over repetitions."""
    acceptance_rate: float | None
    tokens_per_target_step: float


def compare(
    target: Any,
    draft: Any,
    inputs: Mapping[str, Tensor],
    *,
    gamma: int = 4,
    max_new_tokens: int = 64,
    do_sample: bool = False,
    repetitions: int = 5,
) -> list[Row]:
    """Time our loop on the batch, our loop and transformers' on one sequence after the other, and
    the target alone in our loop.

    Args:
        target, draft, inputs, gamma, max_new_tokens, do_sample: as in `speculative.generate`.
        repetitions: how often each loop decodes all sequences, after once that is not counted.

    Returns:
        A row for each loop, the fastest kind first.
    """
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": do_sample}
    ours: dict[str, Any] = {"gamma": gamma, **options}
    alone = list(_sequences(inputs))
    loops: dict[str, Loop] = {
        f"speculative.generate, batch {len(alone)}": partial(_ours, target, draft, [inputs], ours),
        "speculative.generate, one by one": partial(_ours, target, draft, alone, ours),
        "transformers' assisted loop, one by one": partial(
            _theirs, target, draft, alone, {**options, "top_k": 0, "temperature": 1.0}
        ),
        f"target alone, batch {len(alone)}": partial(_ours, target, None, [inputs], ours),
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    statistics = {name: Statistics() for name in loops}
    with _drafting(draft, gamma):
        for repetition in range(-1, repetitions):
            for name, loop in loops.items():
                found: list[Statistics] = []
                took = timed(lambda: found.append(loop()), warm_up=0, repetitions=1)  # noqa: B023
                if repetition >= 0:
                    rates[name].append(found[0].new_tokens / took.median)
                    statistics[name] += found[0]
    return [
        Row(
            loop=name,
            tokens_per_s=spread(rates[name]),
            acceptance_rate=statistics[name].acceptance_rate,
            tokens_per_target_step=statistics[name].tokens_per_target_step,
        )
        for name in loops
    ]


def shown(rows: Sequence[Row]) -> str:
    """The rows as a table, with the speed of each as a multiple of transformers' loop."""
    theirs = next(row for row in rows if row.loop.startswith("transformers"))
    return table(
        ("loop", "tokens/s", "of transformers' loop", "acceptance", "tokens per target step"),
        [
            (
                row.loop,
                f"{row.tokens_per_s}",
                f"{row.tokens_per_s.median / theirs.tokens_per_s.median:.2f} x",
                "" if row.acceptance_rate is None else f"{row.acceptance_rate:.2f}",
                f"{row.tokens_per_target_step:.2f}",
            )
            for row in rows
        ],
    )


def _ours(
    target: Any, draft: Any, batches: Sequence[Mapping[str, Tensor]], options: dict[str, Any]
) -> Statistics:
    """Decode all batches with our loop; what that took."""
    parts = (generate(target, draft, batch, **options).record for batch in batches)
    first = next(parts)
    return sum(parts, start=first)


def _theirs(
    target: Any, draft: Any, sequences: Sequence[Mapping[str, Tensor]], options: dict[str, Any]
) -> Statistics:
    """Decode all sequences with transformers' loop; what that took."""
    if not options["do_sample"]:
        options = {name: options[name] for name in ("max_new_tokens", "do_sample")}
    with assisted(target) as statistics:
        for sequence in sequences:
            target.generate(**sequence, assistant_model=draft, **options)
    return statistics


def _sequences(inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Every sequence of the inputs as a batch of one, without its padding."""
    name = "attention_mask"
    for row in range(len(next(iter(inputs.values())))):
        alone = {key: x[row : row + 1] for key, x in inputs.items()}
        if name in alone and "input_ids" in alone:
            real = alone[name][0].bool()
            alone |= {key: alone[key][:, real] for key in ("input_ids", name)}
        yield alone


@contextmanager
def _drafting(draft: Any, gamma: int) -> Iterator[None]:
    """Let transformers' loop draft `gamma` tokens a step; the draft's config is restored."""
    before = copy.deepcopy(draft.generation_config)
    draft_always(draft, gamma)
    try:
        yield
    finally:
        draft.generation_config = before

"""The measured window of a run in steps: its seconds, its steps, and the bytes sent meanwhile.

    window = Window(world)        # after the first steps, in which caches fill
    ...
    yield Step(last, window.totals(steps))

Then `summarize` makes the result of the run from the steps of all ranks.
"""

import dataclasses
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import mean
from typing import Any

from systems.measure import Spread, spread
from systems.network.distributed import World
from systems.network.tcp import tcp_bytes
from systems.profiles.emulation import Emulation
from systems.runs.record import Step

PAYLOAD_COUNTERS = ("payload_sent", "payload_received")
"""The byte counters of a transport."""
TCP_COUNTERS = ("tcp_sent", "tcp_received")
"""The byte counters of the kernel."""
ALL_COUNTERS = PAYLOAD_COUNTERS + TCP_COUNTERS


class Window:
    """The measured window. It begins when it is made; all ranks make it together."""

    def __init__(
        self, world: World, payload_bytes: Callable[[], tuple[int, int]] | None = None
    ) -> None:
        """Begin, while no rank has anything on its way.

        Args:
            payload_bytes: tells what a transport of this rank has sent and received so far.
        """
        self._world, self._payload_bytes = world, payload_bytes
        _, self._counted, self._began_s = self._read("the start of the measured window")

    def totals(self, steps: int) -> dict[str, float]:
        """End the window, on all ranks together, and return what belongs into the last step of this
        rank: `window_s`, `window_steps`, and `NAME_bytes_per_step` for each counter that is here.

        Args:
            steps: how many steps were done in the window.
        """
        ended_s, counted, _ = self._read("the end of the measured window")
        totals: dict[str, float] = {"window_s": ended_s - self._began_s, "window_steps": steps}
        for name, after in counted.items():
            totals[_total(name)] = (after - self._counted[name]) / steps
        return totals

    @contextmanager
    def paused(self, why: str) -> Iterator[None]:
        """Leave out what all ranks do together in this context: its seconds and its bytes.

        Args:
            why: names the barriers in errors.
        """
        stopped_s, before, _ = self._read(f"a pause for {why}")
        yield
        _, after, resumed_s = self._read(f"the end of a pause for {why}")
        self._began_s += resumed_s - stopped_s
        for name, counted in before.items():
            self._counted[name] += after[name] - counted

    def _read(self, when: str) -> tuple[float, dict[str, int], float]:
        """Read the byte counters while all ranks stand still; returns the times just before and
        just after, too. `when` names the barrier in errors."""
        self._world.barrier(when)
        before_s = time.perf_counter()
        counted: dict[str, int] = {}
        if self._payload_bytes is not None:
            counted |= zip(PAYLOAD_COUNTERS, self._payload_bytes(), strict=True)
        by_kernel = tcp_bytes()
        if by_kernel is not None:
            counted |= zip(TCP_COUNTERS, by_kernel, strict=True)
        # No rank goes on, or closes a connection with its counter, before all have read.
        self._world.barrier(f"{when}, bytes counted")
        return before_s, counted, time.perf_counter()


def summarize(
    ranks: Sequence[Sequence[Step]],
    world_size: int,
    samples_per_step: int,
    emulation: Emulation | None = None,
    *,
    steps_together: int = 1,
) -> dict[str, Any]:
    """The result of a run with a measured window, whose totals are in the last step of every rank.

    Seconds and bytes are those of the cluster that an emulation stands for. The names of results
    carry their units. `bytes_per_step` has for every rank what was counted; None where nothing
    counts. A `test_accuracy` or `resumed_step` among the totals of rank 0 is taken over.

    Args:
        ranks: every rank's steps. They may be followed by the steps of ranks before a checkpoint,
            from which the run was resumed: they add their losses, but no times and bytes.
        samples_per_step: the samples of a step over all ranks.
        steps_together: a step time is the mean over so many steps in a row, for a system whose
            steps take turns at being long.
    """
    totals, here = ranks[0][-1].metrics, ranks[:world_size]
    emulation = emulation or Emulation()
    steps, window_s = int(totals["window_steps"]), totals["window_s"] / emulation.dilate
    result = {
        "samples_per_s": samples_per_step * steps / window_s,
        "step_s": dataclasses.asdict(_step_s(here, steps, emulation.dilate, steps_together)),
        "samples_per_step": samples_per_step,
        "resumed_step": int(totals.get("resumed_step", 0)),
        "bytes_per_step": [_counted(rank[-1], emulation.scale) for rank in here],
    }
    if losses := _losses(ranks):
        result["loss"] = losses
    if "test_accuracy" in totals:
        result["test_accuracy"] = totals["test_accuracy"]
    return result


def _total(counter: str) -> str:
    """Name a counter among the totals of a rank."""
    return f"{counter}_bytes_per_step"


def _counted(last: Step, scale: float) -> dict[str, float | None]:
    """The bytes per step of every counter, from the last step of a rank.

    Args:
        scale: an emulation's messages are this many times smaller than real ones.
    """
    raw = {name: last.metrics.get(_total(name)) for name in ALL_COUNTERS}
    return {name: None if value is None else value * scale for name, value in raw.items()}


def _step_s(ranks: Sequence[Sequence[Step]], steps: int, dilate: float, together: int) -> Spread:
    """The seconds of the last `steps` steps, on the rank whose median is the longest.

    The other ranks may run ahead of it for a while.
    """
    together = min(together, steps)
    spreads = []
    for rank in ranks:
        seconds = [step.metrics["step_s"] / dilate for step in rank[-1 - steps : -1]]
        whole = seconds[steps % together :]
        groups = (whole[i : i + together] for i in range(0, len(whole), together))
        spreads.append(spread([mean(group) for group in groups]))
    return max(spreads, key=lambda each: each.median)


def _losses(ranks: Sequence[Sequence[Step]]) -> list[float]:
    """The training loss of every step that rank 0 did: the mean over the samples of all ranks.
    Empty where no rank tells it."""
    sums, samples = defaultdict[int, float](float), defaultdict[int, float](float)
    for step in itertools.chain(*ranks):
        sums[step.index] += step.metrics.get("loss_sum", 0.0)
        samples[step.index] += step.metrics.get("samples", 0)
    if not any("loss_sum" in step.metrics for step in itertools.chain(*ranks)):
        return []
    return [sums[step.index] / samples[step.index] for step in ranks[0][:-1]]

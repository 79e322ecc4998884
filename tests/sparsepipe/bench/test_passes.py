"""How passes become laps and turns, by clocks that are made up."""

import itertools
from collections.abc import Iterable, Iterator
from types import SimpleNamespace

import pytest
import torch

from sparsepipe.bench.passes import MOST_A_TURN, TURN_S, Lap, turn

CPU = torch.device("cpu")


def set_clocks(patch: pytest.MonkeyPatch, wall: Iterable[float], processor: float = 0.0) -> None:
    """Let the clocks show these times. A pass reads them at its start, and twice at a yield that
    names a part, else once."""
    times = iter(wall)
    clocks = SimpleNamespace(perf_counter=lambda: next(times), process_time=lambda: processor)
    patch.setattr("sparsepipe.bench.passes.time", clocks)


def test_only_named_parts_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Iterator[str | None]:
        yield "forward"
        yield None
        yield "backward"

    set_clocks(monkeypatch, [10.0, 13.0, 14.0, 50.0, 60.0, 65.0])
    laps = {"forward": Lap(3.0, 0.0), "backward": Lap(10.0, 0.0), "train": Lap(13.0, 0.0)}
    assert turn(make, CPU) == laps


@pytest.mark.parametrize(
    ("pass_s", "count"), [(TURN_S, 1), (TURN_S / 3.5, 1 + 3), (TURN_S / 1e6, 1 + MOST_A_TURN)]
)
def test_short_passes_are_repeated(
    pass_s: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make() -> Iterator[str | None]:
        made.append(1)
        yield "infer"

    set_clocks(monkeypatch, itertools.cycle([0.0, pass_s, pass_s]))
    assert turn(make, CPU) == {"infer": Lap(pass_s, 0.0)}
    assert len(made) == count


def test_a_turn_is_the_median_of_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Iterator[str | None]:
        yield "infer"

    monkeypatch.setattr("sparsepipe.bench.passes.MOST_A_TURN", 3)
    monkeypatch.setattr("sparsepipe.bench.passes.TURN_S", 100.0)
    set_clocks(monkeypatch, [0, 7, 7, 0, 1, 1, 0, 5, 5, 0, 3, 3])
    assert turn(make, CPU)["infer"].wall_s == 3  # the first one, of 7, is not counted


def test_a_gpu_has_done_a_part_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def make() -> Iterator[str | None]:
        for part in ("forward", None, "backward"):
            events.append(str(part))
            yield part

    def clock() -> float:
        events.append("clock")
        return float(len(events))

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("wait"))
    clocks = SimpleNamespace(perf_counter=clock, process_time=lambda: 0.0)
    monkeypatch.setattr("sparsepipe.bench.passes.time", clocks)
    turn(make, torch.device("cuda"))
    told = "wait clock forward wait clock clock None wait clock backward wait clock clock"
    assert events == told.split()

"""How passes become laps and turns."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from sparsepipe.bench.passes import MOST_A_TURN, turn

CPU = torch.device("cpu")


def test_only_named_parts_are_timed() -> None:
    def make() -> Iterator[str | None]:
        time.sleep(0.03)
        yield "forward"
        time.sleep(0.5)
        yield None
        yield "backward"

    laps = turn(make, CPU)
    assert set(laps) == {"train", "forward", "backward"}
    assert 0.03 <= laps["forward"].wall_s < 0.5  # without what is not timed
    assert laps["forward"].processor_s < laps["forward"].wall_s  # sleep takes no core
    assert laps["train"].wall_s == laps["forward"].wall_s + laps["backward"].wall_s


def test_short_passes_are_repeated() -> None:
    made = []

    def short() -> Iterator[str | None]:
        made.append(1)
        yield "infer"

    assert set(turn(short, CPU)) == {"infer"}
    assert len(made) == 1 + MOST_A_TURN


def test_long_passes_are_made_once() -> None:
    made = []

    def long() -> Iterator[str | None]:
        made.append(1)
        time.sleep(0.03)
        yield "infer"

    turn(long, CPU)
    assert len(made) == 1


def test_a_turn_is_the_median_of_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 7, 7, 0, 1, 1, 0, 5, 5, 0, 3, 3])  # begin, end, and begin of what follows

    def make() -> Iterator[str | None]:
        yield "infer"

    monkeypatch.setattr("sparsepipe.bench.passes.MOST_A_TURN", 3)
    monkeypatch.setattr("sparsepipe.bench.passes.TURN_S", 100.0)
    monkeypatch.setattr(
        "sparsepipe.bench.passes.time",
        SimpleNamespace(perf_counter=lambda: float(next(clock)), process_time=lambda: 0.0),
    )
    assert turn(make, CPU)["infer"].wall_s == 3.0  # the first one, of 7, is not counted

"""Engines in processes of their own, and those that fail there."""

import multiprocessing
import os
from collections.abc import Iterator

import pytest

from sparsepipe.bench.clouds import task
from sparsepipe.bench.contestant import Contestant
from sparsepipe.bench.engines import ENGINES, Engine
from sparsepipe.bench.passes import Passes
from sparsepipe.bench.task import Task


def dies(work: Task) -> Passes:
    def infer() -> Iterator[str | None]:
        os._exit(7)
        yield "infer"

    return {"infer": infer}


def refuses(work: Task) -> Passes:
    raise ValueError(f"no {work.channels} channels\nand a long story")


def has_no_memory(work: Task) -> Passes:
    raise RuntimeError("CUDA out of memory. Tried to allocate")


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("passes", "said"),
    [
        (dies, "its process ended with code 7"),
        (refuses, "fails: ValueError: no 4 channels"),
        (has_no_memory, "does not fit in memory"),
    ],
)
def test_a_failure_is_told(passes: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is forked from this one here, so that it has the engine that fails."""
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: forked)
    monkeypatch.setitem(ENGINES, "dense", Engine(passes, ("layer",)))  # type: ignore[arg-type]
    one = Contestant("dense", task("sphere:8", 4), "cpu", threads=1)
    one.play("infer", patience_s=1.0)
    assert one.failure == said
    one.play("infer", patience_s=1.0)  # asks nothing more
    assert one.end() >= 0
    assert dict(one.laps) == {}


@pytest.mark.distributed
def test_an_engine_that_takes_long_sits_out() -> None:
    one = Contestant("gemm", task("sphere:8", 4), "cpu", threads=1)
    for _ in range(5):
        one.play("infer", patience_s=0.0)
        one.play("maps", patience_s=0.0)  # a pass that it does not have
    assert one.end() > 0
    assert {part: len(laps) for part, laps in one.laps.items()} == {"infer": 3}

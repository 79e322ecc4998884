"""Contests between engines, on clouds so small that no time means anything."""

from dataclasses import replace

import pytest

from sparsepipe.bench.clouds import task
from sparsepipe.bench.contest import Contest, Row, ratios, run
from sparsepipe.bench.engines import dense

TINY = Contest(
    cloud="sphere:12",
    channels=4,
    passes=("train", "infer", "maps"),
    engines=("native", "dense", "gemm"),
)


def test_a_contest() -> None:
    rows = run(TINY, repetitions=2)
    parts = {(row.engine, row.part): row for row in rows}
    steps = ("train", "forward", "backward", "infer")
    assert {(engine, part) for engine in TINY.engines for part in steps} <= set(parts)
    assert ("native", "map 3^3 transposed") in parts
    assert ("dense", "map 3^3") not in parts
    for row in rows:
        assert len(row.wall_s) == len(row.processor_s) == 2
        assert row.failure is None
        assert row.load >= 0
    assert parts["native", "train"].peak_bytes > 0
    assert len(ratios(rows, "dense")) == len(ratios(rows, "dense", "infer")) == 2
    assert ratios(rows, "dense", "map 3^3") == []


def test_engines_compete_on_what_they_compute() -> None:
    rows = run(replace(TINY, channels=0, passes=("maps",)), repetitions=1)
    assert {row.engine for row in rows} == {"native"}


def test_what_does_not_fit_is_told() -> None:
    native, limited = run(
        Contest(
            cloud="sphere:200",
            channels=64,
            passes=("infer",),
            engines=("native", "dense"),
            memory_limit_bytes=1e9,
        ),
        repetitions=1,
    )
    assert native.failure is None
    assert limited.failure == "does not fit in 1 GB"
    assert limited.wall_s == ()
    assert ratios([native, limited], "dense", "infer") == []


def test_spconv_competes_on_one_thread_alone() -> None:
    (row,) = run(replace(TINY, engines=("spconv",), threads=2), repetitions=1)
    assert row.failure is not None
    assert "more than one thread" in row.failure


@pytest.mark.parametrize(
    ("cloud", "channels", "said"),
    [("sphere:128", 64, "take minutes"), ("sphere:256", 16, "take 1.1 GB")],
)
def test_dense_volumes_that_are_too_large_are_left_out(
    cloud: str, channels: int, said: str
) -> None:
    reason = dense.too_large(task(cloud, channels))
    assert reason is not None
    assert said in reason
    (row,) = run(Contest(cloud=cloud, channels=channels, engines=("dense",)), repetitions=1)
    assert row.failure == reason


def row(engine: str, *seconds: float) -> Row:
    return Row(
        contest=TINY,
        engine=engine,
        part="train",
        voxels=1,
        pairs=1,
        wall_s=seconds,
        processor_s=tuple(2 * s * s for s in seconds),
        load=0.0,
        peak_bytes=1,
    )


def test_ratios_pair_rounds() -> None:
    rows = [row("native", 1.0, 2.0), row("minkowski", 2.0, 6.0), row("dense", 9.0)]
    assert ratios(rows, "minkowski") == [2.0, 3.0]
    assert ratios(rows, "minkowski", clock="processor_s") == [4.0, 9.0]
    assert ratios(rows, "native", over="minkowski") == [0.5, 1 / 3]
    assert ratios(rows, "dense") == [6.0]
    assert ratios(rows, "minkowski", "infer") == []


def test_one_thread_is_told_by_its_time_on_a_core() -> None:
    assert TINY.clock == "processor_s"
    assert replace(TINY, threads=2).clock == replace(TINY, device="cuda").clock == "wall_s"

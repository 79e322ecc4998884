"""Contests between engines, on clouds so small that no time means anything."""

from dataclasses import replace

import pytest
import torch

from sparsepipe.bench.clouds import shell, task
from sparsepipe.bench.contest import Contest, Row, dense_operations, ratios, run
from sparsepipe.bench.engines import ENGINES, Task, prepare, unavailable
from systems.schema import InputError

TINY = Contest(cloud="sphere:12", channels=4, engines=("native", "dense"))


def test_a_shell_is_as_thin_as_a_voxel() -> None:
    coordinates = shell(40)
    assert len(coordinates.unique(dim=0)) == len(coordinates)
    distance = (coordinates - 19.5).norm(dim=1)
    assert (distance - 18).abs().max() < 0.5
    assert len(coordinates) > 3.5 * 18**2  # 4 pi r^2, about


def test_clouds_by_name() -> None:
    spheres = task("sphere:10x3", 4)
    assert spheres.batch_size == 3
    assert spheres.coordinates[:, 0].unique().tolist() == [0, 1, 2]
    shapes, fewer = task("shapes:0.1x2", 4), task("shapes:0.1x2x100", 4)
    assert shapes.coordinates[:, 1:].amin() == 0
    assert shapes.side >= shapes.coordinates[:, 1:].amax() + 1
    assert fewer.side == 10
    assert len(fewer.coordinates) <= 200 < len(shapes.coordinates)
    for name in ("cube:3", "sphere:", "shapes:0.1xtwo", "shapes:0.1x1x2x3"):
        with pytest.raises(InputError, match="give sphere:SIDE"):
            task(name, 4)


def small_task(channels: int) -> Task:
    return task("sphere:10", channels)


@pytest.mark.parametrize("engine", [name for name in ENGINES if unavailable(name, 1) is None])
def test_an_engine_makes_passes_and_leaves_no_gradients(engine: str) -> None:
    torch.manual_seed(0)
    prepared = prepare(engine, small_task(4))
    prepared.run()
    prepared.run()
    if engine != "dense":
        assert prepared.make_map is not None
        prepared.make_map()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("engine", ["native", "minkowski"])
def test_a_network_steps(engine: str) -> None:
    if unavailable(engine, 1) is not None:
        pytest.skip(f"{engine} is not installed")
    prepare(engine, task("sphere:48x2", 0)).run()


def test_a_contest() -> None:
    rows = run(TINY, repetitions=2)
    native, dense = rows
    assert [row.engine for row in rows] == ["native", "dense"]
    assert all(len(row.pass_s) == 2 and row.failure is None for row in rows)
    assert all(row.peak_bytes > 0 and row.of_matrix_rate > 0 for row in rows)
    assert native.map_s is not None
    assert dense.map_s is None
    assert len(ratios(rows, "dense")) == 2


def test_what_does_not_fit_is_told() -> None:
    native, dense = run(
        Contest(
            cloud="sphere:200", channels=64, engines=("native", "dense"), memory_limit_bytes=1e9
        ),
        repetitions=1,
    )
    assert native.failure is None
    assert dense.failure == "does not fit in 1 GB"
    assert dense.pass_s == ()
    assert ratios([native, dense], "dense") == []


def test_spconv_competes_on_one_thread_alone() -> None:
    (row,) = run(replace(TINY, engines=("spconv",), threads=2), repetitions=1)
    assert row.failure is not None
    assert "more than one thread" in row.failure


def test_dense_volumes_that_take_too_long_are_left_out() -> None:
    work = task("sphere:256", 64)
    assert dense_operations(work) > 1e12
    (row,) = run(Contest(cloud="sphere:256", channels=64, engines=("dense",)), repetitions=1)
    assert row.failure == "a pass would take minutes"


def test_ratios_pair_rounds() -> None:
    def row(engine: str, *seconds: float) -> Row:
        return Row(
            contest=TINY,
            engine=engine,
            voxels=1,
            pass_s=seconds,
            peak_bytes=1,
            operations=1.0,
            matrix_operations_per_s=1.0,
        )

    rows = [row("native", 1.0, 2.0), row("minkowski", 2.0, 6.0), row("dense", 9.0)]
    assert ratios(rows, "minkowski") == [2.0, 3.0]
    assert ratios(rows, "dense") == [6.0]

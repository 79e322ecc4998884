"""The sparse engine against MinkowskiEngine, spconv and dense convolution: time and memory."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sparsepipe.bench.contest import Contest, Row, ratios, run, sweep
from sparsepipe.bench.table import markdown
from sparsepipe.experiments import engine_figures as figures
from systems import schema
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results, measure_once

SURFACES = {"0.02": "shapes:0.02x4", "0.01": "shapes:0.01x2"}
"""Generated shapes at the two voxel sizes, some 20 and 30 thousand voxels."""
SPARSE = ("native", "minkowski", "spconv")
MAP = "map 3^3"
NETWORK = Contest(cloud="shapes:0.02x8", network="minkvgg16-bn", threads=2, engines=SPARSE[:2])
DENSE = Contest(cloud="shapes:0.02x4x2048", channels=64, engines=("native", "dense"))
"""Clouds as they are trained on; at 0.02 the unit cube has 50 voxels a side."""
LARGE = Contest(cloud="sphere:128", channels=32, engines=("native", "dense"))
LARGEST = Contest(
    cloud="sphere:256", channels=64, engines=("native", "dense"), memory_limit_bytes=8e9
)
REPETITIONS = {"quick": 5, "full": 9}

LEAST_OVER_PEER = {1: 1.1, 2: 1.5}
"""How many times faster than MinkowskiEngine (and spconv on one thread), by threads."""
LEAST_OF_MATRIX_RATE = {64: 0.5, 128: 0.65}
"""The part of a matrix product's rate that a convolution reaches, by channels."""
MOST_FOR_MAP = 0.25
"""The part of a layer's time that making its kernel map takes."""


def layers(voxel_size: str) -> list[Contest]:
    """MinkVGG16's second and fourth convolution on generated surfaces."""
    return [
        Contest(
            cloud=SURFACES[voxel_size],
            channels=width,
            passes=("train", "maps"),
            threads=threads,
            engines=(*engines, "gemm"),
        )
        for width in LEAST_OF_MATRIX_RATE
        for threads, engines in ((1, SPARSE), (2, SPARSE[:2]))
    ]


def contests(level: str) -> list[Contest]:
    """Return the contests that a level measures."""
    quick = [*layers("0.02"), NETWORK, DENSE, LARGE, LARGEST]
    if level == "quick":
        return [*quick, *sweep((32, 64), (32,), threads=1)]
    return [*quick, *layers("0.01"), *sweep((32, 64, 128, 256), (32, 64, 128), threads=1)]


def measure(level: str, folder: Path) -> Results:
    """Let the engines compete; a contest that an earlier, interrupted run has written stays."""

    def rows(contest: Contest) -> list[Any]:
        return [schema.dump(row) for row in run(contest, REPETITIONS[level])]

    parts: dict[str, partial[list[Any]]] = {}
    for contest in contests(level):
        parts.setdefault(contest.name, partial(rows, contest))  # a sweep repeats some of the others
    return measure_once(folder, parts)


def conclude(results: Results, folder: Path) -> Outcome:
    """The figure, the table and the claims."""
    contested = {
        name: [schema.read(Row, dict(row), name) for row in rows] for name, rows in results.items()
    }
    every = [row for rows in contested.values() for row in rows]
    spheres = [row for row in every if row.contest.cloud.startswith("sphere")]
    return Outcome(
        figures=(figures.sparse_against_dense(_train(spheres), folder),),
        claims=tuple(_claims(contested)),
        notes=(markdown(every),),
    )


def _claims(contested: dict[str, list[Row]]) -> Iterator[Claim]:
    """Make all claims: about layers, about the network, and against dense convolution."""
    for contest in (contest for size in SURFACES for contest in layers(size)):
        if contest.name in contested:
            yield from _layer_claims(contest, contested[contest.name])
    rows = contested[NETWORK.name]
    where = f"MinkVGG16-BN, {rows[0].voxels:,} voxels of {NETWORK.cloud}, 2 threads"
    yield from _speed_claims(rows, "minkvgg16", where, LEAST_OVER_PEER[2])
    yield from _dense_claims(contested)


def _layer_claims(contest: Contest, rows: Sequence[Row]) -> Iterator[Claim]:
    """Claim one layer's speed over the other engines, its share of a matrix product's rate, and, on
    one thread, what its kernel map costs."""
    case = f"{contest.cloud.partition('x')[0]} {contest.channels} threads {contest.threads}"
    where = (
        f"{contest.channels} to {contest.channels} channels, {rows[0].voxels:,} voxels of "
        f"{contest.cloud}, {contest.threads} thread(s)"
    )
    yield from _speed_claims(rows, case, where, LEAST_OVER_PEER[contest.threads])
    yield claim(
        f"sparsepipe.share-of-matrix-rate.{case}.measured",
        f"floating-point rate of a pass over a matrix product's, {where}",
        ratios(rows, "gemm"),
        Target(least=LEAST_OF_MATRIX_RATE[contest.channels], unit="fraction"),
    )
    if contest.threads > 1:
        return
    times = {(row.engine, row.part): row.seconds for row in rows if row.wall_s}
    ours = times["native", MAP]
    yield claim(
        f"sparsepipe.kernel-map-share.{case}.measured",
        f"time of the kernel map over that of map and pass, {where}",
        [ours / (ours + times["native", "train"])],
        Target(most=MOST_FOR_MAP, unit="fraction"),
    )
    for peer in contest.engines:
        if peer != "native" and (peer, MAP) in times:
            yield claim(
                f"sparsepipe.kernel-map-over-{peer}.{case}.measured",
                f"{peer}'s time for a kernel map over ours, {where}",
                ratios(rows, peer, MAP),
                Target(least=1.0, unit="x"),
            )


def _speed_claims(rows: Sequence[Row], case: str, where: str, least: float) -> Iterator[Claim]:
    """Claim our speed over every other engine that ran the same work."""
    for engine in rows[0].contest.engines:
        times = ratios(rows, engine)
        if times and engine not in ("native", "gemm"):
            yield claim(
                f"sparsepipe.speed-over-{engine}.{case}.measured",
                f"{engine}'s time over ours, forward and backward, {where}",
                times,
                Target(least=least, unit="x"),
            )


def _dense_claims(contested: dict[str, list[Row]]) -> Iterator[Claim]:
    """Claim our speed and memory against dense convolution on volumes of three sizes."""
    ours, dense = _train(contested[DENSE.name])
    yield claim(
        "sparsepipe.speed-over-dense.50-cubed.measured",
        f"dense Conv3d's time over ours, {ours.voxels:,} voxels of {DENSE.cloud} in 50^3, batch 4, "
        "64 channels, 1 thread",
        ratios([ours, dense], "dense"),
        Target(least=50.0, unit="x"),
    )
    ours, dense = _train(contested[LARGE.name])
    yield claim(
        "sparsepipe.memory-over-dense.128-cubed.measured",
        "dense Conv3d's peak memory over ours, sphere in 128^3, 32 channels",
        [dense.peak_bytes / ours.peak_bytes],
        Target(least=10.0, unit="x"),
    )
    ours, dense = _train(contested[LARGEST.name])
    yield claim(
        "sparsepipe.peak-memory.256-cubed.measured",
        f"our peak memory, sphere in 256^3, 64 channels; dense: {dense.failure or 'runs as well'}",
        [ours.peak_bytes / 1e9],
        Target(most=8.0, unit="GB"),
    )


def _train(rows: Sequence[Row]) -> list[Row]:
    """The rows of whole steps."""
    return [row for row in rows if row.part == "train"]

"""The sparse engine against MinkowskiEngine, spconv and dense convolution: time and memory."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from sparsepipe.bench.contest import (
    Contest,
    Row,
    ratios,
    run,
    sweep,
)
from sparsepipe.experiments import engine_figures as figures
from systems import schema
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results
from systems.runs import record

SURFACES = {"0.02": "shapes:0.02x4", "0.01": "shapes:0.01x2"}
"""Generated shapes at the two voxel sizes, some 20 and 30 thousand voxels."""
SPARSE = ("native", "minkowski", "spconv")
NETWORK = Contest(cloud="shapes:0.02x8", channels=0, threads=2, engines=SPARSE[:2])
DENSE = Contest(cloud="shapes:0.02x4x2048", channels=64, engines=("native", "dense"))
"""Clouds as they are trained on; at 0.02 the unit cube has 50 voxels a side."""
LARGE = Contest(cloud="sphere:128", channels=32, engines=("native", "dense"))
LARGEST = Contest(
    cloud="sphere:256", channels=64, engines=("native", "dense"), memory_limit_bytes=8e9
)
REPETITIONS = {"quick": 5, "full": 9}

OWN = "this project's target"
LEAST_OVER_PEER = {1: 1.1, 2: 1.5}
"""Times faster than MinkowskiEngine (and spconv on one thread), by threads."""
LEAST_OF_MATRIX_RATE = {64: 0.5, 128: 0.65}
"""Of the rate of a matrix product, by channels."""
MOST_FOR_MAP = 0.25
"""Of a layer's time."""


def layers(voxel_size: str) -> list[Contest]:
    """MinkVGG16's second and fourth convolution on generated surfaces."""
    return [
        Contest(cloud=SURFACES[voxel_size], channels=width, threads=threads, engines=engines)
        for width in LEAST_OF_MATRIX_RATE
        for threads, engines in ((1, SPARSE), (2, SPARSE[:2]))
    ]


def contests(level: str) -> list[Contest]:
    """What is measured at a level."""
    quick = [*layers("0.02"), NETWORK, DENSE, LARGE, LARGEST]
    if level == "quick":
        return [*quick, *sweep((32, 64), (32,), threads=1)]
    return [*quick, *layers("0.01"), *sweep((32, 64, 128, 256), (32, 64, 128), threads=1)]


def measure(level: str, folder: Path) -> Results:
    """Let the engines compete; a contest that an earlier, interrupted run has written stays."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for contest in contests(level):
        path = folder / f"{contest.name}.json"
        if not path.is_file():
            print(f"  {contest.name}", flush=True)
            rows = run(contest, REPETITIONS[level])
            record.write_json(path, [schema.dump(row) for row in rows])
        results[contest.name] = json.loads(path.read_text())
    return results


def conclude(results: Results, folder: Path) -> Outcome:
    """The figure, the table and the claims."""
    found = {
        name: [schema.read(Row, dict(row), name) for row in rows] for name, rows in results.items()
    }
    every = [row for rows in found.values() for row in rows]
    spheres = [row for row in every if row.contest.cloud.startswith("sphere")]
    known = [contest for size in SURFACES for contest in layers(size) if contest.name in found]
    claims = [c for contest in known for c in _layer_claims(contest, found[contest.name])]
    return Outcome(
        figures=(figures.sparse_against_dense(spheres, folder),),
        claims=(*claims, *_network_claims(found[NETWORK.name]), *_dense_claims(found)),
        notes=(figures.table(every),),
    )


def _layer_claims(contest: Contest, rows: Sequence[Row]) -> list[Claim]:
    case = f"{contest.cloud.partition('x')[0].replace(':', '-')}-{contest.channels}"
    case += f"-threads-{contest.threads}"
    where = (
        f"{contest.channels} to {contest.channels} channels, {rows[0].voxels:,} voxels of "
        f"{contest.cloud}, {contest.threads} thread(s)"
    )
    by_engine = {row.engine: row for row in rows}
    native = by_engine["native"]
    claims = _speed_claims(rows, case, where, LEAST_OVER_PEER[contest.threads])
    claims.append(
        _claim(
            "share-of-matrix-rate",
            case,
            f"floating-point rate of a pass over a matrix product's, {where}",
            [native.of_matrix_rate],
            "fraction",
            Target(least=LEAST_OF_MATRIX_RATE[contest.channels], source=OWN),
        )
    )
    if native.map_s is None or contest.threads > 1:
        return claims
    claims.append(
        _claim(
            "kernel-map-share",
            case,
            f"time of the kernel map over that of map and pass, {where}",
            [native.map_s / (native.map_s + native.seconds)],
            "fraction",
            Target(most=MOST_FOR_MAP, source=OWN),
        )
    )
    for peer, row in by_engine.items():
        if peer != "native" and row.map_s is not None:
            claims.append(
                _claim(
                    f"kernel-map-over-{peer}",
                    case,
                    f"{peer}'s time for a kernel map over ours, {where}",
                    [row.map_s / native.map_s],
                    "x",
                    Target(least=1.0, source=OWN),
                )
            )
    return claims


def _speed_claims(rows: Sequence[Row], case: str, where: str, least: float) -> list[Claim]:
    return [
        _claim(
            f"speed-over-{row.engine}",
            case,
            f"{row.engine}'s time over ours, forward and backward, {where}",
            ratios(rows, row.engine),
            "x",
            Target(least=least, source=OWN),
        )
        for row in rows
        if row.engine != "native" and row.pass_s
    ]


def _network_claims(rows: Sequence[Row]) -> list[Claim]:
    where = f"MinkVGG16-BN, {rows[0].voxels:,} voxels of {rows[0].contest.cloud}, 2 threads"
    return _speed_claims(rows, "minkvgg16", where, LEAST_OVER_PEER[2])


def _dense_claims(found: dict[str, list[Row]]) -> Iterable[Claim]:
    ours, dense = found[DENSE.name]
    yield _claim(
        "speed-over-dense",
        "50-cubed",
        f"dense Conv3d's time over ours, {ours.voxels:,} voxels of {DENSE.cloud} in 50^3, batch 4, "
        "64 channels, 1 thread",
        ratios(found[DENSE.name], "dense"),
        "x",
        Target(least=50.0, source=OWN),
    )
    ours, dense = found[LARGE.name]
    yield _claim(
        "memory-over-dense",
        "128-cubed",
        "dense Conv3d's peak memory over ours, sphere in 128^3, 32 channels",
        [dense.peak_bytes / ours.peak_bytes],
        "x",
        Target(least=10.0, source=OWN),
    )
    ours, dense = found[LARGEST.name]
    failed = dense.failure or "runs as well"
    yield _claim(
        "peak-memory",
        "256-cubed",
        f"our peak memory, sphere in 256^3, 64 channels; dense: {failed}",
        [ours.peak_bytes / 1e9],
        "GB",
        Target(most=8.0, source=OWN),
    )


def _claim(
    quantity: str, case: str, what: str, values: Sequence[float], unit: str, target: Target
) -> Claim:
    return claim(
        *("sparsepipe", quantity, case, "measured"),
        what=what,
        values=values,
        unit=unit,
        target=target,
    )

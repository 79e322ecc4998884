"""Mixed clusters, three ways: the planner, the simulator, and the emulated program agree.

    pytest -m slow tests/stanza/test_mixed_emulation.py -s        # prints the table

The slow device is made up (2.5 times slower than the V100 of the profiles), so that these times say
how well the three ways agree, and nothing of any real cluster.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from launch.commands.emulate import EmulatedJob, prepare_emulated, run_emulated
from launch.records import read_result
from stanza.options import Options
from stanza.planner.plan import load_profile
from stanza.system import SYSTEM
from systems.clusters import cluster
from systems.clusters.cluster import Cluster, Device, Link, Node
from systems.profiles.profile import save
from tests.emulation import needs_emulation

PLANNER, EMULATION = 0.05, 0.10
"""How far the planner, and the emulation, may be from the simulator."""
SLOWER = 2.5
STEPS: dict[str, Any] = {"steps": 5, "warm_up_steps": 2}


def lab(name: str, *nodes: tuple[str, int, float]) -> Cluster:
    """A cluster of nodes: the kind of device, how many, Gb/s."""
    made = tuple(
        Node(
            name=f"{kind}-{place}",
            count=count,
            devices=(Device(kind=kind),),
            link=Link(bandwidth_bits_per_s=rate * 1e9),
        )
        for place, (kind, count, rate) in enumerate(nodes)
    )
    return Cluster(name=name, source="made up", nodes=made)


@dataclass(frozen=True)
class Point:
    cluster: Cluster
    model: str
    options: dict[str, Any]


KINDS = lab("kinds", ("V100", 2, 10), ("T4", 2, 10))
RATES = lab("rates", ("V100", 3, 10), ("V100", 2, 4))
BOTH = lab("both", ("V100", 2, 25), ("T4", 2, 10))
SIX = lab("six", ("V100", 2, 20), ("T4", 2, 20), ("T4", 2, 5))
DDP, AUTO = {"scheme": "ddp"}, {"batch_shares": "auto"}
BLOCKING, ONE_FC = {"scheme": "ps"}, {"fc_workers": 1}
POINTS = {
    "two kinds, ddp": Point(KINDS, "alexnet", DDP),
    "two kinds, ddp by speed": Point(KINDS, "vgg16", DDP | AUTO),
    "two kinds, one FC worker by speed": Point(KINDS, "vgg16", ONE_FC | AUTO),
    "two rates, ddp": Point(RATES, "resnet50", DDP),
    "two rates, one server": Point(RATES, "alexnet", BLOCKING),
    "two rates, one FC worker": Point(RATES, "alexnet", ONE_FC),
    "both, one FC worker by speed": Point(BOTH, "vgg16", ONE_FC | AUTO),
    "both, two FC workers by speed": Point(BOTH, "alexnet", {"fc_workers": 2} | AUTO),
    "both, pipelined server by speed": Point(
        BOTH, "vgg16", BLOCKING | {"ps_mode": "pipelined"} | AUTO
    ),
    "six nodes, one FC worker by speed": Point(SIX, "alexnet", ONE_FC | AUTO),
    "six nodes, ddp by speed": Point(SIX, "resnet50", DDP | AUTO),
}


def job(point: Point, folder: Path, name: str) -> EmulatedJob:
    """The job of a point, whose cluster and profiles are written to the folder."""
    path = folder / f"{point.cluster.name}.toml"
    path.write_text(cluster.to_toml(point.cluster))
    shipped = load_profile(point.model)
    files = {"V100": shipped, "T4": replace(shipped.slowed(SLOWER, "made up"), device="T4")}
    for kind, profile in files.items():
        save(profile, folder / f"{point.model}-{kind}.json")
    return SYSTEM.command_job(
        EmulatedJob,
        Options(model=point.model, **STEPS, **point.options),
        name=name,
        cluster=str(path),
        world_size=point.cluster.size,
        profile=",".join(
            f"{kind}={folder}/{point.model}-{kind}.json" for kind in point.cluster.kinds
        ),
        out=str(folder / name.replace(" ", "-")),
    )


@pytest.mark.parametrize("name", POINTS)
def test_the_planner_and_the_simulator_agree(name: str, tmp_path: Path) -> None:
    assert SYSTEM.simulate is not None
    result = SYSTEM.simulate(job(POINTS[name], tmp_path, name)).result
    assert result["step_s"] == pytest.approx(result["predicted_step_s"], rel=PLANNER)


@needs_emulation
def test_emulated_ranks_share_the_batch_by_speed(tmp_path: Path) -> None:
    folder = prepare_emulated(job(POINTS["two kinds, ddp by speed"], tmp_path, "by speed"))
    assert run_emulated([folder], quiet=True) == 0
    result = read_result(folder)
    assert result["step_s"]["median"] == pytest.approx(result["simulated_step_s"], rel=0.3)


@pytest.mark.slow
@needs_emulation
def test_the_simulator_and_the_emulation_agree_on_eight_points(tmp_path: Path) -> None:
    rows, near = [], 0
    for name, point in POINTS.items():
        folder = prepare_emulated(job(point, tmp_path, name))
        assert run_emulated([folder], quiet=True) == 0
        result = read_result(folder)
        simulated_s, predicted_s = result["simulated_step_s"], result["predicted_step_s"]
        of_ranks, emulated = result["calibration"]["rate_bits_per_s"], result["step_s"]
        if len(set(of_ranks)) > 1:  # every pair is measured at the slower of its rates
            assert len(result["calibration"]["pairs"]) == len(of_ranks) * (len(of_ranks) - 1) / 2
        ratio = emulated["median"] / simulated_s
        near += abs(ratio - 1) <= EMULATION
        spread = f"[{emulated['low'] * 1e3:.1f}, {emulated['high'] * 1e3:.1f}]"
        rows.append(
            f"{name:36} {predicted_s * 1e3:8.1f} {simulated_s * 1e3:8.1f} "
            f"{emulated['median'] * 1e3:8.1f} {spread:20} "
            f"{predicted_s / simulated_s:6.3f} {ratio:6.3f}"
        )
    print("\npoint; ms: planner, simulator, emulation [quartiles]; planner and emulation over it")
    print("\n".join(rows))
    assert near >= 8

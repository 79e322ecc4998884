"""Topologies of cluster files: paths, what is plain, what is refused."""

import dataclasses
from pathlib import Path

import pytest

from systems.clusters import cluster
from systems.clusters.host import FREE
from systems.clusters.racks import Racks
from systems.clusters.sized import simulated_cluster
from systems.clusters.topology import is_plain, one_device_each, plain, topology_of
from systems.schema import InputError
from tests.systems.topologies import small

FULL = """
name = "full"
source = "invented"
all_reduce = "tree"
[racks]
nodes = 2
oversubscription = 4.0
latency_s = 3e-6
[[nodes]]
name = "n"
count = 3
devices = [{ kind = "V100", count = 2 }]
link = { bandwidth_bits_per_s = 10e9, latency_s = 50e-6 }
device_link = { bandwidth_bits_per_s = 100e9, latency_s = 5e-6 }
[[faults.stragglers]]
rank = 1
factor = 2.0
until_s = 3.0
[faults.jitter]
spread = 0.1
[[faults.links]]
rack = 1
factor = 0.0
from_s = 1.0
[[faults.jobs]]
name = "other"
source = 0
target = 2
size_bytes = 1e9
"""


@pytest.fixture
def full(tmp_path: Path) -> Path:
    path = tmp_path / "full.toml"
    path.write_text(FULL)
    return path


def test_a_file_becomes_a_topology(full: Path) -> None:
    topology = topology_of(cluster.load(str(full), simulated=True))
    assert topology.node_of == (0, 0, 1, 1, 2, 2)
    assert topology.rack_of == (0, 0, 1)
    # The last rack has one node; an uplink has a quarter of the rates of its interfaces.
    assert [link.bandwidth_bits_per_s for link in topology.uplinks] == [5e9, 2.5e9]
    assert topology.path(0, 1) == ((0, "port out"), (1, "port in"))
    assert topology.path(1, 2) == ((1, "port out"), (0, "out"), (1, "in"), (2, "port in"))
    assert topology.path(0, 5) == (
        *((0, "port out"), (0, "out"), (0, "up")),
        *((1, "down"), (2, "in"), (5, "port in")),
    )
    assert topology.path_latency_s(0, 1) == 5e-6
    assert topology.path_latency_s(0, 2) == 50e-6
    assert topology.path_latency_s(0, 5) == pytest.approx(53e-6)
    assert topology.all_reduce == "tree"
    assert str(topology.faults) == (
        "rank 1 x2 until 3 s; lognormal jitter of 0.1, drawn once, seed 0; link of rack 1 fails "
        "from 1 s; job 'other' from node 0 to 2: as fast as it can, 1e+09 bytes"
    )


def test_a_file_is_written_as_it_was_read(full: Path, tmp_path: Path) -> None:
    read = cluster.load(str(full), simulated=True)
    again = tmp_path / "again.toml"
    again.write_text(cluster.to_toml(read))
    assert cluster.load(str(again), simulated=True) == read


@pytest.mark.parametrize("key", ["racks", "all_reduce", "faults"])
def test_only_the_simulator_gets_what_only_it_knows(key: str, full: Path) -> None:
    read = cluster.load(str(full), simulated=True)
    others = {name: None for name in ("racks", "all_reduce", "faults") if name != key}
    full.write_text(cluster.to_toml(dataclasses.replace(read, **others)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"{key}: is heeded by `testbed simulate` alone"):
        cluster.load(str(full))


def test_ranks_that_share_cores_have_no_racks(full: Path) -> None:
    with pytest.raises(InputError, match="host: ranks that share the cores of one machine"):
        topology_of(cluster.load(str(full), simulated=True).on(FREE))


def test_presets_are_plain() -> None:
    alike = {name: cluster.load(name) for name in cluster.presets()}
    assert all(plain(target) == target for target in alike.values())
    assert is_plain(alike["ec2-p3-10g"])
    assert not is_plain(alike["titan-8"])  # several devices
    assert one_device_each(alike["ec2-p3-10g"]) == alike["ec2-p3-10g"]


def test_a_planner_for_equal_ranks_gets_parts_of_interfaces(full: Path) -> None:
    sized = simulated_cluster(str(full), 8)
    assert [sized.planned.size, len(sized.planned.links)] == [8, 8]
    assert {link.bandwidth_bits_per_s for link in sized.planned.links} == {5e9}
    assert sized.topology is not None
    assert len(sized.topology.links) == 4
    with pytest.raises(InputError, match="--world-size 7: cluster full has 6 devices, 2 a node"):
        simulated_cluster(str(full), 7)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rank = 1", "rank = 6", "faults: stragglers: rank = 6: there are 0 to 5"),
        ("rack = 1", "rack = 2", "faults: links: rack = 2: there are 0 to 1"),
        ("target = 2", "target = 3", "faults: jobs: target = 3: there are 0 to 2"),
        ("target = 2", "target = 0", "source = target = 0"),
        ("rack = 1", "rack = 1\nnode = 1", "give one of them"),
        ("factor = 2.0", "factor = 0.0", "factor = 0"),
        ("until_s = 3.0", "until_s = 0.0", "until_s = 0"),
        ("spread = 0.1", "spread = -0.1", "spread = -0.1"),
        ("oversubscription = 4.0", "oversubscription = 0.0", "oversubscription = 0"),
        ('"tree"', '"butterfly"', "'butterfly'"),
        ("device_link", "#", "2 devices, and nothing says how they are joined"),
    ],
)
def test_what_cannot_be_is_refused(old: str, new: str, message: str, full: Path) -> None:
    full.write_text(FULL.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        topology_of(cluster.load(str(full), simulated=True))
    assert message in str(caught.value)


def test_one_rack_has_no_uplink() -> None:
    assert small(2, racks=Racks(nodes=2)).uplinks == ()

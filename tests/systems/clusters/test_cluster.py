"""Clusters: presets and files load, and what cannot be is refused by name and place."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from systems import schema
from systems.clusters import cluster
from systems.clusters.cluster import Cluster, Device, Link, Node
from systems.clusters.uniform import check_uniform
from systems.schema import InputError

PLAIN = """
name = "two"
source = "a test"
[[nodes]]
name = "n"
count = 2
devices = [{ kind = "V100" }]
link = { bandwidth_bits_per_s = 10e9 }
"""


def written(folder: Path, text: str) -> str:
    path = folder / "my.toml"
    path.write_text(text)
    return str(path)


def refusal(name: str) -> str:
    with pytest.raises(InputError) as caught:
        cluster.load(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def node(rate: float | None, *, count: int = 1, latency_s: float = 0.0) -> Node:
    link = Link(bandwidth_bits_per_s=rate, latency_s=latency_s)
    return Node(name="n", devices=(Device(kind="V100"),), link=link, count=count)


def of(*nodes: Node) -> Cluster:
    return Cluster(name="test", source="a test", nodes=nodes)


@pytest.mark.parametrize("name", cluster.presets())
def test_every_preset_loads_under_its_own_name(name: str) -> None:
    loaded = cluster.load(name)
    assert loaded.name == name
    assert loaded.source
    assert loaded.size >= 1


def test_presets_are_those_of_the_papers_and_this_machine() -> None:
    assert {"ec2-p3-10g", "local", "titan-8"} <= set(cluster.presets())
    ec2 = cluster.load("ec2-p3-10g")
    assert ec2.size == 10
    assert ec2.slowest_link.bandwidth_bits_per_s == 10e9
    titan = cluster.load("titan-8")
    assert sum(device.count for n in titan.nodes for device in n.devices) == 8


@pytest.mark.parametrize("name", cluster.presets())
def test_toml_round_trip_of_presets(name: str, tmp_path: Path) -> None:
    preset = cluster.load(name)
    assert cluster.load(written(tmp_path, cluster.to_toml(preset))) == preset


names = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8)
rates = st.floats(min_value=1e3, max_value=1e15)
links = st.builds(Link, bandwidth_bits_per_s=st.none() | rates, latency_s=st.floats(0, 1))
devices = st.builds(
    Device, kind=names, count=st.integers(1, 16), memory_bytes=st.none() | st.integers(1, 2**40)
)
nodes = st.builds(
    Node,
    name=names,
    devices=st.lists(devices, min_size=1, max_size=2).map(tuple),
    link=links,
    device_link=st.none() | links,
    count=st.integers(1, 1000),
)
clusters = st.builds(
    Cluster, name=names, source=names, nodes=st.lists(nodes, min_size=1, max_size=3).map(tuple)
)


@settings(deadline=None)
@given(clusters)
def test_toml_round_trip_of_any_cluster(given_cluster: Cluster) -> None:
    table = tomllib.loads(cluster.to_toml(given_cluster))
    assert schema.read(Cluster, table, "here") == given_cluster


@pytest.mark.parametrize("rate", ["-10e9", "0", "0.0", "nan"])
def test_bandwidth_must_be_positive(rate: str, tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN.replace("10e9", rate))
    message = refusal(path)
    assert message.startswith(f"{path}: nodes[0]: link: bandwidth_bits_per_s = {float(rate):g}:")
    assert ("expected a number" if rate == "nan" else "positive") in message


def test_bandwidth_between_devices_must_be_positive(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN + "device_link = { bandwidth_bits_per_s = -80e9 }\n")
    message = refusal(path)
    assert message.startswith(f"{path}: nodes[0]: device_link: bandwidth_bits_per_s = -8e+10:")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("count = 2", "count = 0", "nodes[0]: count = 0: give 1 or more nodes"),
        ('kind = "V100"', 'kind = "V100", count = 0', "devices[0]: count = 0"),
        ('[{ kind = "V100" }]', "[]", "devices of node 'n' is empty"),
        ("10e9 }", "10e9, latency_s = -1.0 }", "link: latency_s = -1"),
        ("bandwidth_bits_per_s", "bandwith_bits_per_s", "perhaps 'bandwidth_bits_per_s'"),
        ("10e9", '"10 Gb/s"', "link: bandwidth_bits_per_s = '10 Gb/s': expected float"),
        ('name = "two"', "", "key 'name' is missing"),
        (
            "count = 2",
            "count = 100000000000",
            "count = 100000000000: give 1 or more nodes, at most",
        ),
        ("10e9", "10", "bandwidth_bits_per_s = 10: no link has this rate; give bits per second"),
        ("10e9", "1e-300", "bandwidth_bits_per_s = 1e-300: no link has this rate"),
        ("10e9", "inf", "bandwidth_bits_per_s = inf: no link has this rate"),
        ("10e9 }", "10e9, latency_s = 5e9 }", "latency_s = 5e+09: no link waits so long; give s"),
        ('kind = "V100"', 'kind = "V100", memory_bytes = -1', "memory_bytes = -1: give 1 or more"),
    ],
)
def test_bad_values_are_named_with_the_file(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in PLAIN
    path = written(tmp_path, PLAIN.replace(old, new, 1))
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert said in message


def test_a_cluster_needs_nodes(tmp_path: Path) -> None:
    path = written(tmp_path, 'name = "none"\nsource = "a test"\nnodes = []\n')
    assert refusal(path) == f"{path}: nodes is empty; give at least one [[nodes]]"


def test_unknown_preset_names_the_close_one() -> None:
    message = refusal("ec2-p3-10")
    assert message == "--cluster ec2-p3-10: neither a preset nor a file; perhaps 'ec2-p3-10g'"


def test_missing_file_lists_the_presets(tmp_path: Path) -> None:
    message = refusal(str(tmp_path / "none.toml"))
    assert "neither a preset nor a file" in message
    assert "titan-8" in message


@pytest.mark.parametrize("content", [b"name = ", b"[[nodes]", b"\xff\xfe\x00"])
def test_what_is_not_toml_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    assert refusal(str(path)).startswith(f"{path}: not TOML: ")


def test_with_size_changes_the_count_only() -> None:
    before = of(node(10e9, count=10))
    after = before.with_size(4)
    assert (before.size, after.size) == (10, 4)
    assert after.with_size(10) == before


@pytest.mark.parametrize("size", [0, -1])
def test_with_size_needs_a_node(size: int) -> None:
    with pytest.raises(InputError, match="give 1 or more"):
        of(node(10e9)).with_size(size)


def test_with_size_of_mixed_nodes_is_refused() -> None:
    with pytest.raises(InputError, match="mixes nodes"):
        of(node(10e9), node(1e9)).with_size(4)


def test_with_link_replaces_every_link() -> None:
    link = Link(bandwidth_bits_per_s=25e9)
    mixed = of(node(10e9), node(None, count=3)).with_link(link)
    assert [n.link for n in mixed.nodes] == [link, link]
    assert mixed.size == 4


def test_slowest_link_is_that_of_the_lowest_rate() -> None:
    mixed = of(node(10e9), node(1e9, latency_s=1e-5), node(25e9))
    assert mixed.slowest_link == Link(bandwidth_bits_per_s=1e9, latency_s=1e-5)


def test_slowest_link_is_unknown_where_one_rate_is() -> None:
    mixed = of(node(10e9, latency_s=3e-5), node(None, latency_s=1e-5))
    assert mixed.slowest_link == Link(bandwidth_bits_per_s=None, latency_s=3e-5)


def test_link_takes_eight_bits_a_byte() -> None:
    assert Link(bandwidth_bits_per_s=10e9).seconds(1.25e9) == pytest.approx(1.0)


def test_unknown_rate_gives_no_time() -> None:
    with pytest.raises(InputError, match="not known"):
        Link().seconds(1)


def titan(rate: float = 10e9, *devices: Device, name: str = "n", latency_s: float = 0.0) -> Node:
    link = Link(bandwidth_bits_per_s=rate, latency_s=latency_s)
    return Node(name=name, devices=devices or (Device(kind="V100"),), link=link, count=2)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ((titan(), titan(10e9, Device(kind="T4"), name="b")), "node 'b' has T4, node 'n' V100"),
        ((titan(10e9, Device(kind="V100"), Device(kind="T4")),), "node 'n' has V100 and T4"),
        ((titan(10e9, Device(kind="V100", count=4)),), "has 4 devices: .* give count = 8"),
        ((titan(), titan(1e9, name="b")), "'b' has a link of 1 Gb/s, node 'n' one of 10 Gb/s"),
        ((titan(), titan(latency_s=5e-5, name="b")), "'b' has a link of 10 Gb/s and 50 us"),
    ],
)
def test_nodes_that_are_not_alike_are_named(nodes: tuple[Node, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_uniform(of(*nodes))


def test_nodes_that_are_alike_may_have_several_names() -> None:
    check_uniform(of(titan(), titan(name="b")))
    for name in ("ec2-p3-10g", "local"):
        check_uniform(cluster.load(name), name)


@pytest.mark.parametrize("head", ["[[nodes]]", "  [[ nodes ]]  # the second"])
def test_a_node_of_a_file_is_named_with_its_line(head: str, tmp_path: Path) -> None:
    second = PLAIN.partition("[[nodes]]")[2].replace('"n"', '"m"').replace("10e9", "1e9")
    path = written(tmp_path, f"{PLAIN}{head}{second}")
    with pytest.raises(InputError) as caught:
        check_uniform(cluster.load(path), path)
    line = (PLAIN + head).count("\n") + 1
    assert str(caught.value).startswith(f"--cluster {path}, line {line}: node 'm'")


def test_a_node_with_other_devices_and_rates() -> None:
    titans = cluster.load("titan-8")
    few = titans.with_devices({"TitanV": 1, "TitanXp": 3}).with_rate(1e9)
    assert [(d.kind, d.count) for d in few.nodes[0].devices] == [("TitanV", 1), ("TitanXp", 3)]
    assert few.nodes[0].devices[0].memory_bytes == titans.nodes[0].devices[0].memory_bytes
    assert few.nodes[0].link.bandwidth_bits_per_s == 1e9
    assert few.nodes[0].device_link == few.nodes[0].link
    assert [d.kind for d in titans.with_devices({"TitanV": 2, "TitanXp": 0}).nodes[0].devices] == [
        "TitanV"
    ]
    with pytest.raises(InputError, match="'TitanXp'"):
        titans.with_devices({"TitanXq": 1})
    with pytest.raises(InputError, match="several nodes"):
        cluster.load("ec2-p3-10g").with_devices({"V100": 1})

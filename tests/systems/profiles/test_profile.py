"""Profiles: files round trip, shipped ones are their authors'."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from systems.profiles import profile
from systems.profiles.graph_file import read_graph
from systems.profiles.profile import LayerProfile, ModelProfile, with_fixed_parts
from systems.schema import InputError

SHIPPED = Path(__file__).parents[3] / "stanza" / "profiles"
# name: parameters, forward ms, backward ms, layers; summed up from the authors' files with awk.
TOTALS = {
    "alexnet": (61_100_840, 44.801, 40.520, 22),
    "vgg16": (138_357_544, 233.902, 438.633, 40),
    "resnet50": (25_557_032, 182.488, 260.931, 176),
    "inception-v3": (27_161_264, 289.269, 399.769, 325),
}

GRAPH = """\
node4 -- Add -- forward_compute_time=0.250, backward_compute_time=0.000, \
activation_size=[64.0; 32.0], parameter_size=0.000
node1 -- Input -- forward_compute_time=99.000, backward_compute_time=0.000, \
activation_size=8.000, parameter_size=0.000
node2 -- Conv2d(3, 64, kernel_size=(3, 3)) -- forward_compute_time=1.500, \
backward_compute_time=2.500, activation_size=64.000, parameter_size=7168.000
node3 -- ReLU(inplace) -- forward_compute_time=0.500, backward_compute_time=0.125, \
activation_size=64.000, parameter_size=0.000
\tnode1 -- node2
\tnode2 -- node3
\tnode3 -- node4
\tnode2 -- node4
"""


def graph(text: str, name: str = "small") -> ModelProfile:
    return read_graph(text, name=name, device_kind="V100", batch_size=4, source="a test")


def layer(name: str = "a", forward_s: float = 1.0, backward_s: float = 2.0) -> LayerProfile:
    return LayerProfile(
        name=name,
        operation="Linear(2, 2)",
        forward_s=forward_s,
        backward_s=backward_s,
        activation_bytes=800,
        parameter_bytes=24,
    )


def model(*layers: LayerProfile, batch_size: int = 8) -> ModelProfile:
    return ModelProfile(
        name="m", device="V100", batch_size=batch_size, source="a test", layers=layers
    )


def in_nanoseconds(given: ModelProfile) -> ModelProfile:
    """The profile with whole nanoseconds: divided by a thousand, milliseconds are not exact."""
    layers = tuple(
        replace(x, forward_s=round(x.forward_s, 9), backward_s=round(x.backward_s, 9))
        for x in given.layers
    )
    return replace(given, layers=layers)


# Files


@pytest.mark.parametrize("name", TOTALS)
def test_json_round_trip(name: str, tmp_path: Path) -> None:
    shipped = profile.load(SHIPPED / f"{name}.json")
    profile.save(shipped, tmp_path / "copy.json")
    assert profile.load(tmp_path / "copy.json") == shipped
    assert (tmp_path / "copy.json").read_text() == (SHIPPED / f"{name}.json").read_text()


def test_json_round_trip_of_awkward_text_and_numbers(tmp_path: Path) -> None:
    awkward = model(layer('quo"te\\ \n é 層', forward_s=1 / 3, backward_s=1e-9), layer("b"))
    profile.save(awkward, tmp_path / "p.json")
    assert profile.load(tmp_path / "p.json") == awkward


@pytest.mark.parametrize("name", TOTALS)
def test_shipped_profile_has_the_models_size_and_times(name: str) -> None:
    parameters, forward_ms, backward_ms, layers = TOTALS[name]
    shipped = profile.load(SHIPPED / f"{name}.json")
    assert shipped.name == name
    assert shipped.parameter_bytes == 4 * parameters
    assert shipped.forward_s * 1e3 == pytest.approx(forward_ms, abs=1e-6)
    assert shipped.backward_s * 1e3 == pytest.approx(backward_ms, abs=1e-6)
    assert len(shipped.layers) == layers


@pytest.mark.parametrize("name", TOTALS)
def test_shipped_layers_follow_those_they_read(name: str) -> None:
    seen: set[str] = set()
    for each in profile.load(SHIPPED / f"{name}.json").layers:
        assert seen.issuperset(each.inputs)
        seen.add(each.name)


@pytest.mark.parametrize("name", TOTALS)
def test_shipped_batch_size_is_that_of_the_last_layer(name: str) -> None:
    shipped = profile.load(SHIPPED / f"{name}.json")
    assert shipped.layers[-1].activation_bytes == shipped.batch_size * 1000 * 4


@pytest.mark.parametrize("name", TOTALS)
def test_shipped_profile_is_what_its_authors_published(name: str) -> None:
    folder = Path(os.environ.get("TESTBED_DATA", "")) / "profiles"
    if "TESTBED_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("TESTBED_DATA names no folder with profiles/*.graph.txt")
    shipped = profile.load(SHIPPED / f"{name}.json")
    published = read_graph(
        (folder / f"{name.replace('-', '_')}.graph.txt").read_text(),
        name=shipped.name,
        device_kind=shipped.device,
        batch_size=shipped.batch_size,
        source=shipped.source,
    )
    assert in_nanoseconds(shipped) == in_nanoseconds(published)


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        profile.load(tmp_path / "none.json")


def test_what_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"name": ')
    with pytest.raises(InputError, match=r"p\.json: not JSON"):
        profile.load(tmp_path / "p.json")


def test_bad_layer_is_located(tmp_path: Path) -> None:
    profile.save(model(layer("a"), layer("b")), tmp_path / "p.json")
    text = (tmp_path / "p.json").read_text().replace('"b"', '"b", "forwards_s": 1')
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=r"layers\[1\]: unknown key 'forwards_s'; perhaps 'for"):
        profile.load(tmp_path / "p.json")


# graph.txt


def test_graph_is_read_in_order_of_execution_without_its_input() -> None:
    layers = graph(GRAPH).layers
    assert [each.name for each in layers] == ["node2", "node3", "node4"]
    assert layers[0] == LayerProfile(
        name="node2",
        operation="Conv2d(3, 64, kernel_size=(3, 3))",
        forward_s=0.0015,
        backward_s=0.0025,
        activation_bytes=64,
        parameter_bytes=7168,
    )
    assert layers[1].inputs == ("node2",)
    assert layers[2].inputs == ("node3", "node2")


def test_graph_sums_the_outputs_of_a_node() -> None:
    assert graph(GRAPH).layers[2].activation_bytes == 96


def test_graph_times_do_not_count_the_loading_of_data() -> None:
    assert graph(GRAPH).forward_s == pytest.approx(0.00225)
    assert graph(GRAPH).backward_s == pytest.approx(0.002625)


@pytest.mark.parametrize(
    "line", ["node5 -- Linear(2, 2) -- forward_compute_time=1.0", "hello", "node1 -> node2"]
)
def test_bad_line_of_a_graph_is_numbered(line: str) -> None:
    with pytest.raises(InputError) as caught:
        graph(GRAPH + "\n" + line + "\n")
    assert str(caught.value) == f"graph of small, line 10: neither a node nor an edge: {line}"


def test_cycle_is_refused() -> None:
    with pytest.raises(InputError, match="graph of small: a cycle among node2"):
        graph(GRAPH + "\tnode4 -- node2\n")


# Scaling

times = st.floats(min_value=0, max_value=10)
batches = st.integers(min_value=1, max_value=512)


@settings(deadline=None)
@given(times, times, batches, batches)
def test_times_and_activations_grow_with_the_batch(
    forward_s: float, backward_s: float, old: int, new: int
) -> None:
    before = model(layer(forward_s=forward_s, backward_s=backward_s), batch_size=old)
    after = before.at_batch_size(new)
    assert after.batch_size == new
    assert after.forward_s == pytest.approx(forward_s * new / old)
    assert after.backward_s == pytest.approx(backward_s * new / old)
    assert after.layers[0].activation_bytes == round(800 * new / old)
    assert after.parameter_bytes == before.parameter_bytes


def test_the_same_batch_size_changes_nothing() -> None:
    before = profile.load(SHIPPED / "alexnet.json")
    assert before.at_batch_size(before.batch_size) == before


@pytest.mark.parametrize("batch_size", [0, -4])
def test_batch_size_must_be_positive(batch_size: int) -> None:
    with pytest.raises(InputError, match="give 1 or more samples"):
        model(layer()).at_batch_size(batch_size)


lines = st.tuples(times, times)  # fixed part, part per sample


@settings(deadline=None)
@given(st.lists(st.tuples(lines, lines), min_size=1, max_size=4), batches, batches, batches)
def test_fixed_parts_recover_straight_lines(
    layers: list[tuple[tuple[float, float], tuple[float, float]]], a: int, b: int, other: int
) -> None:
    small, large = min(a, b), max(a, b) + 1

    def at(batch_size: int) -> ModelProfile:
        made = [
            layer(str(i), f[0] + f[1] * batch_size, g[0] + g[1] * batch_size)
            for i, (f, g) in enumerate(layers)
        ]
        return model(*made, batch_size=batch_size)

    fitted = with_fixed_parts(at(large), at(small))
    for batch_size in (small, large, other):
        for got, true in zip(
            fitted.at_batch_size(batch_size).layers, at(batch_size).layers, strict=True
        ):
            assert got.forward_s == pytest.approx(true.forward_s, rel=1e-6, abs=1e-6)
            assert got.backward_s == pytest.approx(true.backward_s, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(times, times, batches, batches)
def test_fixed_part_is_never_negative_nor_more_than_measured(
    at_small: float, at_large: float, a: int, b: int
) -> None:
    small, large = min(a, b), max(a, b) + 1
    fitted = with_fixed_parts(
        model(layer(forward_s=at_large), batch_size=large),
        model(layer(forward_s=at_small), batch_size=small),
    ).layers[0]
    assert 0 <= fitted.fixed_forward_s <= min(at_small, at_large)
    assert fitted.forward_s == at_large


def test_fixed_parts_need_two_batch_sizes_of_one_model() -> None:
    with pytest.raises(InputError, match="two batch sizes"):
        with_fixed_parts(model(layer()), model(layer()))
    with pytest.raises(InputError, match="two profiles of one model"):
        with_fixed_parts(model(layer()), model(layer(), layer(), batch_size=4))


def test_slowed_multiplies_every_time_and_says_why() -> None:
    plain = with_fixed_parts(
        model(layer(forward_s=10.0, backward_s=20.0)),
        model(layer(forward_s=6.0, backward_s=14.0), batch_size=4),
    )
    slow = plain.slowed(2.5, "shared cores")
    assert (slow.forward_s, slow.backward_s) == (25.0, 50.0)
    assert slow.at_batch_size(4).forward_s == pytest.approx(15.0)
    assert slow.at_batch_size(4).backward_s == pytest.approx(35.0)
    assert slow.source == "a test; times x 2.5: shared cores"
    assert slow.parameter_bytes == plain.parameter_bytes

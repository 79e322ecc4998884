"""What traces made by hand tell, to the microsecond; see traces.py."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from systems.profiles.trace_file import read_trace
from systems.profiles.trace_layers import TracedLayers, find_layers
from systems.schema import InputError
from tests.systems.profiles import traces
from tests.systems.profiles.traces import Json, event, operator, step

Found = list[tuple[str, float, float]]


def traced(
    tmp_path: Path, events: list[Json], layers: str | None = None, **table: object
) -> TracedLayers:
    path = traces.write(tmp_path / "trace.json", events, **table)
    return find_layers(read_trace(path), path, layers)


def times(found: TracedLayers, index: int = 0) -> Found:
    """Each layer of a step: its name, forward and backward microseconds."""
    layers = found.steps[index].layers
    return [(x.name, round(x.forward_us, 3), round(x.backward_us, 3)) for x in layers]


def test_both_passes_of_every_layer_are_found(tmp_path: Path) -> None:
    found = traced(tmp_path, [*step(1, 9), *step(2), *step(3, 2)])
    layers = [("Conv2d_0", 100, 90), ("ReLU_0", 20, 15), ("Linear_0", 60, 62)]
    assert times(found) == layers
    assert times(found, 1) == [(name, 2 * a, 2 * b) for name, a, b in layers]
    assert (found.step_s.median, found.step_s.n) == (0.0015, 2)
    assert "ProfilerStep#1 is left out: the first step warms up" in found.notes
    assert "CrossEntropyLoss_0 is no layer: it is called outside the model" in found.notes


def test_outputs_and_parameters_are_as_large_as_their_gradients(tmp_path: Path) -> None:
    (cost,) = traced(tmp_path, step(1)).steps
    assert [x.activation_bytes for x in cost.layers] == [8 * 96 * 4, 8 * 96 * 4, 8 * 10 * 4]
    assert [x.parameter_bytes for x in cost.layers] == [(162 + 6) * 4, 0, (960 + 10) * 4]
    assert cost.outside_bytes == 0
    assert cost.takes is not None
    assert cost.takes[0] == [8, 3, 4, 4]


def test_what_no_layer_did_is_said(tmp_path: Path) -> None:
    found = traced(tmp_path, step(1))
    outside = {name: round(seconds * 1e6, 3) for name, seconds in found.outside_s.items()}
    idle = outside.pop("no operator ran: Python, waits")
    assert outside == {
        "aten::flatten": 10 + 5,
        "aten::cross_entropy_loss": 20 + 10,
        "aten::ones_like": 5,
        "accumulation of gradients": 3 + 5 + 5 + 5,
        "the optimizer": 40,
    }
    assert idle + sum(outside.values()) + found.steps[0].layers_us == pytest.approx(1000)


def test_without_shapes_no_bytes_are_known(tmp_path: Path) -> None:
    (cost,) = traced(tmp_path, step(1, shapes=False)).steps
    assert [x.activation_bytes for x in cost.layers] == [None] * 3
    assert cost.takes is None


def test_of_two_operators_with_one_number_the_last_has_made_the_node(tmp_path: Path) -> None:
    peeks = operator("aten::detach", 301, 302, 13)  # in ReLU_0, before aten::linear
    (cost,) = traced(tmp_path, _shifted([*step(1)], peeks)).steps
    assert cost.layers[2].backward_us == pytest.approx(62)


def _shifted(events: list[Json], extra: Json) -> list[Json]:
    extra["ts"] += 1e5
    return [*events, extra]


def kernel(name: str, duration: float, correlation: int, start: float = 5e5) -> Json:
    numbers = {"device": 0, "stream": 7, "correlation": correlation}
    return event("kernel", name, start, start + duration, thread=7, **numbers) | {"pid": 0}


def launch(start: float, correlation: int, thread: int = traces.HOST) -> Json:
    start += 1e5
    named = {"correlation": correlation}
    return event("cuda_runtime", "cudaLaunchKernel", start, start + 1, thread, **named)


def test_on_a_gpu_kernels_count_wherever_they_were_started(tmp_path: Path) -> None:
    events = [
        *step(1, gpu=True),
        *(launch(150, 1), kernel("conv", 400, 1)),
        *(launch(160, 2), kernel("bias", 30, 2)),
        *(launch(401, 3), kernel("gemm", 200, 3)),
        *(launch(620, 4, traces.BACKWARD), kernel("gemm", 210, 4)),
        *(launch(630, 5, traces.BACKWARD), kernel("gemm", 220, 5)),
        *(launch(710, 6, traces.BACKWARD), kernel("wgrad", 800, 6)),
        *(launch(792, 7, traces.BACKWARD), kernel("ncclDevKernel_AllReduce", 99, 7)),
        *(launch(905, 8), kernel("sgd", 17, 8)),
        kernel("of nobody", 5, 999),
    ]
    gpus = [{"id": 0, "name": "NVIDIA V100"}, {"id": 1, "name": "NVIDIA T4"}]
    path = traces.write(tmp_path / "trace.json", events, deviceProperties=gpus)
    assert read_trace(path).device == "NVIDIA V100"
    found = find_layers(read_trace(path), path)
    assert times(found) == [("Conv2d_0", 430, 800), ("ReLU_0", 0, 0), ("Linear_0", 200, 430)]
    said = {name: round(seconds * 1e6) for name, seconds in found.outside_s.items() if seconds}
    assert said == {"communication between ranks": 99, "the optimizer": 17}
    assert any("kernels of 0.005 ms" in note for note in found.notes)


def test_a_kernel_is_tied_by_its_external_id_where_its_launch_is_missing(tmp_path: Path) -> None:
    one = kernel("conv", 300, 77) | {"args": {"device": 0, "External id": 11}}
    found = traced(tmp_path, [*step(1, gpu=True), one])
    assert times(found)[0] == ("Conv2d_0", 300, 0)


def ranges(events: list[Json]) -> list[Json]:
    """The same step where a user has named ranges, and Python functions were not traced."""
    names = {"nn.Module: Net_0": "forward", "nn.Module: CrossEntropyLoss_0": "log"}
    for one in events:
        if one["cat"] == "python_function":
            one["cat"] = "user_annotation"
            one["name"] = names.get(one["name"], one["name"].removeprefix("nn.Module: "))
    return [one for one in events if one["name"] != "aten::cross_entropy_loss"]


def test_ranges_are_layers_where_modules_have_no_names(tmp_path: Path) -> None:
    found = traced(tmp_path, ranges(step(1)))
    assert times(found) == [("Conv2d_0", 100, 90), ("ReLU_0", 20, 15), ("Linear_0", 60, 62)]
    assert "log is no layer: nothing in the backward pass belongs to it" in found.notes


def test_ranges_can_be_asked_for_where_there_are_modules(tmp_path: Path) -> None:
    block = event("user_annotation", "block", 95, 480)
    found = traced(tmp_path, _shifted(step(1), block), "ranges")
    assert times(found) == [("block", 100 + 20 + 10 + 60, 90 + 15 + 5 + 62)]
    assert found.steps[0].layers[0].parameter_bytes == (162 + 6 + 960 + 10) * 4


def unmarked(events: list[Json]) -> list[Json]:
    return [one for one in events if not one["name"].startswith("ProfilerStep")]


def test_a_trace_without_marks_is_one_step(tmp_path: Path) -> None:
    found = traced(tmp_path, unmarked(step(1)))
    assert times(found)[0] == ("Conv2d_0", 100, 90)
    assert any("no steps are marked" in note for note in found.notes)


def test_a_step_without_layers_is_left_out(tmp_path: Path) -> None:
    closing = event("user_annotation", "ProfilerStep#3", 3e5, 3e5 + 4)
    found = traced(tmp_path, [*step(1), *step(2), closing])
    assert len(found.steps) == 1
    assert "1 steps have no layers and are left out" in found.notes


def without(events: list[Json], *words: str) -> list[Json]:
    return [one for one in events if not any(word in one["name"] for word in words)]


def two_batches() -> list[Json]:
    (mark, *first), second = step(1), unmarked(step(2))
    return [mark | {"dur": 2e5}, *first, *second]


def evaluation() -> list[Json]:
    return without(step(2), "Backward0", "AccumulateGrad")


def with_again(events: list[Json]) -> list[Json]:
    return _shifted(events, event("python_function", "nn.Module: ReLU_0", 701, 702))


def in_two_threads(events: list[Json]) -> list[Json]:
    return _shifted(events, event("python_function", "nn.Module: ReLU_1", 10, 12, thread=99))


def compiled(events: list[Json]) -> list[Json]:
    return _shifted(events, operator("CompiledFunction", 361, 362))


WRONG: list[tuple[Callable[[], list[Json]], list[str]]] = [
    (lambda: without(step(1), "nn.Module"), ["neither calls of modules nor ranges", "with_stack"]),
    (lambda: without(step(1), "Backward0", "AccumulateGrad"), ["no backward pass", "p.step()"]),
    (lambda: [*unmarked(step(1)), *unmarked(step(2))], ["runs after a backward", "p.step()"]),
    (lambda: two_batches(), ["Conv2d_0 runs after a backward pass in ProfilerStep#1", "p.step()"]),
    (lambda: [*step(1), *evaluation()], ["ProfilerStep#2 has layers and no backward pass"]),
    (lambda: [*step(1), *step(2), *without(step(3), "ReLU_0")], ["Step#3 runs Linear_0 where"]),
    (lambda: [*step(1), *step(2), *without(step(3), "Linear_0")], ["Step#3 runs nothing where"]),
    (lambda: with_again(step(1)), ["ReLU_0 ran again", "without activation checkpointing"]),
    (lambda: in_two_threads([*step(1)]), ["several threads", "one model"]),
    (lambda: compiled(step(1)), ["torch.compile", "without it"]),
]


@pytest.mark.parametrize(("events", "words"), WRONG)
def test_a_trace_that_tells_too_little_is_refused_with_the_remedy(
    events: Callable[[], list[Json]], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        traced(tmp_path, events())
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith(f"trace {tmp_path / 'trace.json'}: ")
    assert all(word in text for word in words), text


def test_without_sequence_numbers_nothing_is_tied(tmp_path: Path) -> None:
    events = step(1)
    for one in events:
        one["args"].pop("Sequence number", None)
    with pytest.raises(InputError, match="nothing ties its backward pass"):
        traced(tmp_path, events)


def test_a_model_of_one_module_has_that_layer(tmp_path: Path) -> None:
    found = traced(tmp_path, without(step(1), "Net_0", "Conv2d_0", "ReLU_0", "CrossEntropyLoss"))
    assert times(found) == [("Linear_0", 60, 62)]
    assert math.isclose(found.steps[0].outside_bytes, (162 + 6) * 4)

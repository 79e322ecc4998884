"""Every engine that is installed: its passes, what they leave, and what they compute."""

import pytest
import torch
from torch import Tensor, nn

from sparsepipe.bench.clouds import task
from sparsepipe.bench.engines import ENGINES, minkowski, native
from sparsepipe.bench.passes import PARTS, layer_passes
from sparsepipe.bench.task import Task
from sparsepipe.engine.backends import backend, pytorch
from sparsepipe.engine.kernel_map import KernelMap

HERE = [name for name, engine in ENGINES.items() if engine.missing("cpu", 1) is None]


def small_task(channels: int) -> Task:
    return task("sphere:10", channels)


@pytest.mark.parametrize("engine", HERE)
def test_passes_have_their_parts(engine: str) -> None:
    torch.manual_seed(0)
    passes = ENGINES[engine].passes(small_task(4))
    assert {"train", "infer"} <= set(passes) <= set(PARTS)
    for name, make in passes.items():
        for _ in range(2):
            parts = [part for part in make() if part is not None]
            assert set(parts) <= set(PARTS[name])
            assert len(set(parts)) == len(parts) > 0


def test_a_step_leaves_no_gradients() -> None:
    layer, inputs = nn.Linear(3, 3), torch.randn(5, 3, requires_grad=True)
    seen: list[Tensor | None] = []
    passes = layer_passes(layer, lambda: layer(inputs), inputs)
    for part in passes["train"]():
        seen += [layer.weight.grad] if part == "backward" else []
    (gradient,) = seen
    assert gradient is not None
    output = layer(inputs)
    assert torch.allclose(gradient, output.t() @ inputs)  # that of half the sum of squares
    assert layer.weight.grad is None
    assert inputs.grad is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("engine", ["native", "pytorch", "minkowski"])
@pytest.mark.parametrize("network", ["minkunet14", "minkvgg16-bn"])
def test_networks_run(engine: str, network: str) -> None:
    if engine not in HERE:
        pytest.skip(f"{engine} is not installed")
    # MinkowskiEngine pools no samples of one voxel, which strides make of smaller spheres.
    passes = ENGINES[engine].passes(task("sphere:40x2", network=network))
    assert [part for part in passes["train"]() if part] == ["forward", "backward"]
    assert [part for part in passes["infer"]() if part] == ["infer"]


@pytest.mark.parametrize("work", [small_task(4), task("sphere:16", network="minkunet14")])
def test_the_pytorch_engine_computes_with_pytorch(
    work: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def forward(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        used.append(kernel_map)
        return theirs(features, weight, kernel_map)

    theirs = pytorch.forward
    monkeypatch.setattr(pytorch, "forward", forward)
    for _ in native.passes(work, "pytorch")["infer"]():
        pass
    convolutions = len(used)
    assert convolutions >= (1 if work.channels else 20)
    if backend("native") is not pytorch:
        for _ in native.passes(work)["infer"]():
            pass
        assert len(used) == convolutions


def test_what_is_missing_is_told() -> None:
    assert ENGINES["torchsparse"].missing("cpu", 1)
    assert ENGINES["native"].missing("cpu", 8) is None
    reason = minkowski.missing("cpu", 1)
    assert reason is None or "make minkowski" in reason


@pytest.mark.skipif("minkowski" not in HERE, reason="MinkowskiEngine is not installed")
def test_minkowski_finds_as_many_pairs() -> None:
    import MinkowskiEngine

    work = small_task(4)
    manager = MinkowskiEngine.CoordinateManager(D=3)
    fine, _ = manager.insert_and_map(work.coordinates, 1)
    found = manager.kernel_map(fine, fine, kernel_size=3)
    assert sum(pairs.shape[1] for pairs in found.values()) == work.pairs

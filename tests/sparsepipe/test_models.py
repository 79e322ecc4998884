"""The networks: their dense twins on a full volume, the authors' layers, and widths."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import DENSE, MinkUNet, MinkVGG16
from systems.profiles.graph_file import read_graph

DATA = os.environ.get("TESTBED_DATA")
SIDE = 32
NETWORKS = {
    "vgg": lambda **options: MinkVGG16(2, 5, width=1 / 32, **options),
    "unet-14": lambda **options: MinkUNet(2, 5, depth=14, width=1 / 8, **options),
    "unet-18": lambda **options: MinkUNet(2, 5, depth=18, width=1 / 8, **options),
}


def full_volume(samples: int) -> SparseTensor:
    """Every cell of SIDE x SIDE x SIDE occupied."""
    torch.manual_seed(0)
    axes = [torch.arange(size, dtype=torch.int32) for size in (samples, SIDE, SIDE, SIDE)]
    coordinates = torch.cartesian_prod(*axes)
    return SparseTensor(torch.randn(len(coordinates), 2, dtype=torch.float64), coordinates)


def dense_state(sparse: nn.Module) -> dict[str, Tensor]:
    """The sparse network's state under its dense twin's names and shapes."""
    state: dict[str, Tensor] = {}
    for name, value in sparse.state_dict().items():
        key = name.replace(".bn.", ".").replace(".linear.", ".")
        owner = sparse.get_submodule(name.rpartition(".")[0])
        if key.endswith(".kernel"):
            key = key.removesuffix("kernel") + "weight"
            size = round((value.numel() // (value.shape[-1] * value.shape[-2])) ** (1 / 3))
            cube = value.reshape(size, size, size, *value.shape[-2:])  # z, y, x, in, out
            transposed = "Transpose" in type(owner).__name__
            value = cube.permute(*((3, 4) if transposed else (4, 3)), 2, 1, 0)
        elif key.endswith(".bias") and value.ndim == 2:
            value = value[0]
        state[key] = value
    return state


@pytest.mark.parametrize("name", NETWORKS)
def test_a_full_volume_gives_what_the_dense_twin_gives(name: str) -> None:
    torch.manual_seed(1)
    sparse, dense = NETWORKS[name]().double(), NETWORKS[name](kit=DENSE).double()
    for module in sparse.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    dense.load_state_dict(dense_state(sparse))
    inputs = full_volume(2)
    volume, _ = inputs.dense()
    ours, theirs = sparse.eval()(inputs), dense.eval()(volume)
    expected = theirs if theirs.ndim == 2 else theirs.permute(0, 2, 3, 4, 1).reshape(-1, 5)
    assert torch.allclose(ours.features, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter(name: str) -> None:
    torch.manual_seed(2)
    network = NETWORKS[name]()
    network(full_volume(2).replace(torch.randn(2 * SIDE**3, 2))).features.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_unet_keeps_the_voxels() -> None:
    inputs = full_volume(2)
    thinned = SparseTensor(inputs.features[::3], inputs.coordinates[::3])
    outputs = NETWORKS["unet-18"]().double()(thinned)
    assert torch.equal(outputs.coordinates, thinned.coordinates)
    assert outputs.channels == 5


@pytest.mark.skipif(DATA is None, reason="TESTBED_DATA is not set")
def test_vgg_has_the_layers_that_the_authors_profiled() -> None:
    path = Path(str(DATA)) / "profiles" / "minkvgg_v0.02_b128_RTX.graph.txt"
    profile = read_graph(
        path.read_text(), name="minkvgg", device_kind="RTX", batch_size=128, source="authors"
    )
    network = MinkVGG16(1, 40)
    leaves: list[nn.Module] = [*network.features, network.pool, *network.classifier]
    assert len(leaves) == len(profile.layers)
    for ours, theirs in zip(leaves, profile.layers, strict=True):
        kind = theirs.operation.partition("(")[0].removeprefix("Minkowski")
        assert type(ours).__name__ == kind
        assert sum(p.nbytes for p in ours.parameters()) == theirs.parameter_bytes

"""Writes minkowski_golden.npz: what MinkowskiEngine computes, for machines without it.

    make minkowski && .venv/bin/python tests/sparsepipe/engine/make_minkowski_golden.py

Every case is one layer on one cloud in float64: inputs, parameters, outputs, and the gradients of
a third of the sum of the cubed outputs, which do not depend on the order of rows.
"""

import collections
import collections.abc
from pathlib import Path
from typing import Any

import numpy as np
import torch

collections.Sequence = collections.abc.Sequence  # type: ignore[attr-defined]  # it wants this
import MinkowskiEngine as ME  # noqa: E402

TARGET = Path(__file__).parent / "minkowski_golden.npz"
CHANNELS = (3, 4)
CONVOLUTIONS = {
    "k1": {"kernel_size": 1},
    "k2": {"kernel_size": 2},
    "k3": {"kernel_size": 3},
    "k5": {"kernel_size": 5},
    "k3-dilation2": {"kernel_size": 3, "dilation": 2},
    "k2-stride2": {"kernel_size": 2, "stride": 2},
    "k3-stride2": {"kernel_size": 3, "stride": 2},
    "k3-stride3": {"kernel_size": 3, "stride": 3},
    "k1-stride2": {"kernel_size": 1, "stride": 2},
}
POOLINGS = {
    "k2-stride2": {"kernel_size": 2, "stride": 2},
    "k3-stride2": {"kernel_size": 3, "stride": 2},
}


def cloud(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates int32 [N, 4], negative ones too, and features float64 [N, 3]."""
    generator = np.random.default_rng(seed)
    places = np.unique(generator.integers(-6, 7, (90, 3)), axis=0)
    batch = generator.integers(0, 2, (len(places), 1))
    coordinates = torch.from_numpy(np.concatenate([batch, places], 1).astype(np.int32))
    return coordinates, torch.from_numpy(generator.normal(size=(len(places), CHANNELS[0])))


def golden(name: str, layers: list[Any], seed: int) -> dict[str, Any]:
    """One case's arrays; of several layers the last one is tested and the others have no say."""
    coordinates, features = cloud(seed)
    features.requires_grad_()
    tensor = ME.SparseTensor(features=features, coordinates=coordinates)
    arrays: dict[str, Any] = {"coordinates": coordinates, "features": features}
    for number, layer in enumerate(layers):
        layer.double()
        tensor = layer(tensor)
        arrays |= {f"{number}.{key}": value for key, value in layer.named_parameters()}
    (tensor.F.pow(3).sum() / 3).backward()
    arrays |= {"out_coordinates": tensor.C, "out_features": tensor.F}
    arrays["features_gradient"] = features.grad
    for number, layer in enumerate(layers):
        arrays |= {f"{number}.{key}_gradient": p.grad for key, p in layer.named_parameters()}
    return {f"{name}/{key}": value.detach().numpy() for key, value in arrays.items()}


def main() -> None:
    """Write all cases."""
    torch.manual_seed(0)
    arrays: dict[str, Any] = {}
    for name, options in CONVOLUTIONS.items():
        layer = ME.MinkowskiConvolution(*CHANNELS, bias=True, dimension=3, **options)
        arrays |= golden(f"convolution-{name}", [layer], seed=len(arrays))
    for size in (2, 3):
        down = ME.MinkowskiConvolution(*CHANNELS, kernel_size=size, stride=2, dimension=3)
        up = ME.MinkowskiConvolutionTranspose(
            *CHANNELS[::-1], kernel_size=size, stride=2, dimension=3
        )
        arrays |= golden(f"transpose-k{size}-stride2", [down, up], seed=len(arrays))
    for name, options in POOLINGS.items():
        for kind, cls in (("max", ME.MinkowskiMaxPooling), ("average", ME.MinkowskiAvgPooling)):
            arrays |= golden(f"{kind}-pooling-{name}", [cls(dimension=3, **options)], len(arrays))
    for kind, cls in (
        ("max", ME.MinkowskiGlobalMaxPooling),
        ("average", ME.MinkowskiGlobalAvgPooling),
    ):
        arrays |= golden(f"global-{kind}-pooling", [cls()], seed=len(arrays))
    arrays |= golden("batch-norm", [ME.MinkowskiBatchNorm(CHANNELS[0])], seed=len(arrays))
    np.savez_compressed(TARGET, **arrays)


if __name__ == "__main__":
    main()

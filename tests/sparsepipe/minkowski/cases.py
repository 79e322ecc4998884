"""What is held against MinkowskiEngine: layers, functions and networks, as functions of the library
that return tensors whose rows are sorted by coordinates."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.sparsepipe.minkowski import networks

CHANNELS = 3
Outputs = dict[str, Tensor]


def cloud(dimension: int = 3, seed: int = 0, voxels: int = 70) -> tuple[Tensor, Tensor]:
    """Coordinates int32 [N, 1 + dimension] of two samples, and features float64 [N, 3]."""
    generator = np.random.default_rng(seed)
    side = {2: 6, 3: 4, 4: 3}[dimension]
    places = np.unique(generator.integers(-side, side, (voxels, dimension)), axis=0)
    batch = generator.integers(0, 2, (len(places), 1))
    coordinates = torch.from_numpy(np.concatenate([batch, places], 1).astype(np.int32))
    return coordinates, torch.from_numpy(generator.normal(size=(len(places), CHANNELS)))


def by_place(coordinates: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Rows sorted by coordinates."""
    order = torch.from_numpy(np.lexsort(coordinates.numpy().T[::-1]))
    return coordinates[order], *(value[order] for value in values)


def of(tensor: Any, name: str = "out") -> Outputs:
    """The coordinates and features of a sparse tensor."""
    coordinates, features = by_place(tensor.C, tensor.F)
    return {f"{name}_coordinates": coordinates, f"{name}_features": features}


Act = Callable[[Any, Any, nn.Module], Outputs]
"""From the library, a tensor and the case's module."""


class Case:
    """One module on one cloud. `state` is None where the module draws its own parameters."""

    def __init__(
        self,
        make: Callable[[Any], nn.Module],
        act: Act | None = None,
        dimension: int = 3,
        eval: bool = False,
    ) -> None:
        self.make, self.act, self.dimension, self.eval = make, act, dimension, eval

    def run(self, ME: Any, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Outputs, the gradients of a third of the sum of their cubes, and the parameters."""
        coordinates, features = cloud(self.dimension)
        torch.manual_seed(0)
        module = self.make(ME).double().train(not self.eval)
        if state is not None:
            module.load_state_dict(state, strict=True)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        features.requires_grad_()
        tensor = ME.SparseTensor(features=features, coordinates=coordinates)
        outputs = of(module(tensor)) if self.act is None else self.act(ME, tensor, module)
        floating = [v for v in outputs.values() if v.requires_grad]
        if floating:
            sum((value**3).sum() / 3 for value in floating).backward()  # type: ignore[union-attr]
        found = {name: value.detach() for name, value in outputs.items()}
        if features.grad is not None:
            found["gradient"] = features.grad
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                found[f"gradient {name}"] = parameter.grad
        return found | {f"state {name}": value for name, value in before.items()}


def _plain(name: str, ME: Any) -> nn.Module:
    """A layer without arguments, by its name."""
    module: nn.Module = getattr(ME, f"Minkowski{name}")()
    return module


def _layer(name: str, *args: Any, dimension: int | None = 3, **kwargs: Any) -> Case:
    """A layer by its name."""
    options = kwargs if dimension is None else {**kwargs, "dimension": dimension}
    return Case(lambda ME: getattr(ME, name)(*args, **options), dimension=dimension or 3)


def _upward(name: str, size: Any, stride: Any, dimension: int = 3) -> Case:
    """A strided convolution, and a layer of the other direction after it."""

    def make(ME: Any) -> nn.Module:
        options = {"kernel_size": size, "stride": stride, "dimension": dimension}
        channels = () if "Pooling" in name else (4, CHANNELS)
        return nn.Sequential(
            ME.MinkowskiConvolution(CHANNELS, 4, **options), getattr(ME, name)(*channels, **options)
        )

    return Case(make, dimension=dimension)


def _broadcast(name: str) -> Case:
    def act(ME: Any, tensor: Any, module: nn.Module) -> Outputs:
        return of(module(tensor, ME.MinkowskiGlobalMaxPooling()(tensor)))

    return Case(lambda ME: getattr(ME, name)(), act)


def _sum(sign: int, union: bool = False) -> Case:
    """Of tensors of which one lies elsewhere."""

    def act(ME: Any, tensor: Any, module: nn.Module) -> Outputs:
        coordinates, features = cloud(seed=1)
        other = ME.SparseTensor(features, coordinates, coordinate_manager=tensor.coordinate_manager)
        if union:
            return of(ME.MinkowskiUnion()(tensor, other))
        return of(tensor + other if sign > 0 else tensor - other)

    return Case(lambda ME: nn.Identity(), act)


def _at(ME: Any, tensor: Any, module: nn.Module) -> Outputs:
    """A convolution whose outputs lie at the voxels of another tensor."""
    coordinates, features = cloud(seed=1)
    other = ME.SparseTensor(features, coordinates, coordinate_manager=tensor.coordinate_manager)
    return of(module(tensor, other.coordinate_map_key))


def _places(count: int = 50) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    space = torch.rand(count, 3, generator=generator, dtype=torch.float64) * 8 - 4
    batch = torch.randint(0, 2, (count, 1), generator=generator)
    return torch.cat([batch.double(), space], 1)


def _interpolated(ME: Any, tensor: Any, module: nn.Module) -> Outputs:
    coarse = ME.MinkowskiAvgPooling(kernel_size=2, stride=2, dimension=3)(tensor)
    fine = tensor.features_at_coordinates(_places())
    return {
        "fine": fine[0] if isinstance(fine, tuple) else fine,  # the library returns weights too
        "coarse": ME.MinkowskiInterpolation()(coarse, _places()),
    }


def _field(ME: Any, tensor: Any, module: nn.Module) -> Outputs:
    """Points to voxels, through a network, and back to the points."""
    places = _places(200).float()
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(200, CHANNELS, generator=generator, dtype=torch.float64)
    field = ME.TensorField(
        features=features,
        coordinates=places,
        quantization_mode=ME.SparseTensorQuantizationMode.UNWEIGHTED_AVERAGE,
    )
    out = module(field.sparse())
    return {**of(out), "points": out.slice(field).F}


def _merged(mode: str) -> Case:
    def act(ME: Any, tensor: Any, module: nn.Module) -> Outputs:
        coordinates = tensor.C.clone()
        coordinates[:, 1:] //= 2
        features = tensor.F.detach().clone().requires_grad_()
        merged = ME.SparseTensor(
            features, coordinates, quantization_mode=getattr(ME.SparseTensorQuantizationMode, mode)
        )
        found = of(merged)
        found["mapped"] = by_place(tensor.C, merged.F[merged.inverse_mapping.long()])[1]
        return found

    return Case(lambda ME: nn.Identity(), act)


def _decomposed(ME: Any, tensor: Any, module: nn.Module) -> Outputs:
    coordinates, features = tensor.decomposed_coordinates_and_features
    found: Outputs = {}
    for number, (places, rows) in enumerate(zip(coordinates, features, strict=True)):
        c, f = by_place(places, rows)
        found |= {f"c{number}": c, f"f{number}": f}
    rows = tensor.decomposition_permutations[1].sort().values
    return found | {"rows": rows, "at": by_place(tensor.coordinates_at(1))[0]}


def _completed(ME: Any, tensor: Any, module: nn.Module) -> Outputs:
    coordinates, _ = cloud(seed=1, voxels=90)
    key, _ = tensor.coordinate_manager.insert_and_map(coordinates, string_id="target")
    out, scores, wanted = module(tensor, key)
    found = of(out)
    for number, (score, target) in enumerate(zip(scores, wanted, strict=True)):
        places, rows, kept = by_place(score.C, score.F, target)
        found |= {f"c{number}": places, f"score{number}": rows, f"target{number}": kept}
    return found


def _whole(ME: Any, tensor: Any, module: nn.Module) -> Outputs:
    """A network that returns rows, one for each cloud."""
    return {"rows": module(tensor)}


ACTIVATIONS = [
    *("ELU", "Hardshrink", "Hardsigmoid", "Hardtanh", "Hardswish", "LeakyReLU"),
    *("LogSigmoid", "PReLU", "ReLU", "ReLU6", "RReLU", "SELU"),
    *("CELU", "GELU", "Sigmoid", "SiLU", "Softplus", "Softshrink"),
    *("Softsign", "Tanh", "Tanhshrink", "Dropout", "AlphaDropout"),
]
CASES: dict[str, Case] = {
    **{name: Case(partial(_plain, name), eval=True) for name in ACTIVATIONS},
    "Threshold": _layer("MinkowskiThreshold", 0.1, 0.5, dimension=None),
    "Softmax": _layer("MinkowskiSoftmax", dim=1, dimension=None),
    "LogSoftmax": _layer("MinkowskiLogSoftmax", dim=1, dimension=None),
    "convolution-3x3x1": _layer("MinkowskiConvolution", 3, 4, kernel_size=[3, 3, 1], bias=True),
    "convolution-dilation-122": _layer(
        "MinkowskiConvolution", 3, 4, kernel_size=3, dilation=[1, 2, 2]
    ),
    "convolution-stride-221": _layer(
        "MinkowskiConvolution", 3, 4, kernel_size=[2, 2, 1], stride=[2, 2, 1]
    ),
    "transpose-stride-221": _upward("MinkowskiConvolutionTranspose", [2, 2, 1], [2, 2, 1]),
    "pooling-stride-122": _layer("MinkowskiMaxPooling", kernel_size=[1, 2, 2], stride=[1, 2, 2]),
    "convolution-2d": _layer("MinkowskiConvolution", 3, 4, kernel_size=3, dimension=2),
    "convolution-4d": _layer("MinkowskiConvolution", 3, 4, kernel_size=3, dimension=4),
    "convolution-4d-3331": _layer(
        "MinkowskiConvolution", 3, 4, kernel_size=[3, 3, 3, 1], dimension=4
    ),
    "transpose-4d": _upward("MinkowskiConvolutionTranspose", 2, 2, dimension=4),
    "average-4d": _layer("MinkowskiAvgPooling", kernel_size=2, stride=2, dimension=4),
    "generative-k2": _upward("MinkowskiGenerativeConvolutionTranspose", 2, 2),
    "generative-k3": _upward("MinkowskiGenerativeConvolutionTranspose", 3, 2),
    "pooling-transpose": _upward("MinkowskiPoolingTranspose", 2, 2),
    "sum-pooling": _layer("MinkowskiSumPooling", kernel_size=3, stride=2),
    "global-sum": _layer("MinkowskiGlobalSumPooling", dimension=None),
    "instance-norm": _layer("MinkowskiInstanceNorm", 3, dimension=None),
    "linear": _layer("MinkowskiLinear", 3, 5, dimension=None),
    "sinusoidal": _layer("MinkowskiSinusoidal", 3, 5, dimension=None),
    "broadcast": _broadcast("MinkowskiBroadcast"),
    "broadcast-addition": _broadcast("MinkowskiBroadcastAddition"),
    "broadcast-multiplication": _broadcast("MinkowskiBroadcastMultiplication"),
    "broadcast-concatenation": _broadcast("MinkowskiBroadcastConcatenation"),
    "sum": _sum(1),
    "difference": _sum(-1),
    "union": _sum(1, union=True),
    "convolution-at": Case(
        lambda ME: ME.MinkowskiConvolution(3, 4, kernel_size=3, dimension=3), _at
    ),
    "interpolation": Case(lambda ME: nn.Identity(), _interpolated),
    "field": Case(lambda ME: ME.MinkowskiConvolution(3, 4, kernel_size=3, dimension=3), _field),
    "merged-average": _merged("UNWEIGHTED_AVERAGE"),
    "merged-sum": _merged("UNWEIGHTED_SUM"),
    "decomposed": Case(lambda ME: nn.Identity(), _decomposed),
    "classifier": Case(networks.classifier, _whole, eval=True),
    "minkunet34": Case(networks.minkunet34),
    "completion": Case(networks.completion, _completed),
}

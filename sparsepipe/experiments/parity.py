"""Sparse convolution equals dense nn.Conv3d at the voxels, and MinkowskiEngine where installed.

The experiment runs every kernel of a sweep on generated surfaces, in two precisions. An error is
the largest difference over the largest value, of the output and of both gradients.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from sparsepipe.bench.clouds import task
from sparsepipe.engine.backends import backend, convolve
from sparsepipe.engine.kernel_map import Kernel
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.experiments.dense_reference import dense_convolution, dense_transposed
from systems.figures.claims import Target, claim
from systems.figures.experiment import Outcome, Results
from systems.runs import record
from systems.schema import InputError

CLOUD = "shapes:0.08x2x2048"
CHANNELS = (5, 7)
KERNELS = [
    (size, stride, dilation, transposed)
    for size in (1, 2, 3, 5)
    for stride in (1, 2, 3)
    for dilation in (1, 2)
    for transposed in (False, True)
]
MOST = {torch.float32: 1e-5, torch.float64: 1e-12}
"""The largest error that sums in another order may make."""
Function = Callable[[Tensor, Tensor], Tensor]


def measure(level: str, folder: Path) -> Results:
    """The errors, kernel by kernel; the same at every level."""
    results: Results = record.once(folder / "errors.json", _all_errors)
    return results


def _all_errors() -> Results:
    """The errors of all kernels, by peer and precision."""
    results: dict[str, list[dict[str, float]]] = {}
    for dtype in MOST:
        for kernel in KERNELS:
            for peer, error in _errors(*kernel, dtype).items():
                name = f"{peer}-{str(dtype).partition('.')[2]}"
                results.setdefault(name, []).append({"error": error})
    return results


def _errors(
    size: int, stride: int, dilation: int, transposed: bool, dtype: torch.dtype
) -> dict[str, float]:
    """The error of one kernel against each peer: dense convolution, and MinkowskiEngine."""
    work = task(CLOUD, 1)
    generator = torch.Generator().manual_seed(size)
    fine = SparseTensor(torch.zeros(len(work.coordinates), 1), work.coordinates)
    coarse = fine.maps.coarsen(1, stride)
    kernel_map = fine.maps.kernel_map(Kernel(size, dilation, 1, stride), transposed=transposed)
    inner, outer = CHANNELS
    x = torch.randn(len(kernel_map.input_keys), inner, generator=generator, dtype=dtype)
    weight = torch.randn(size**3, inner, outer, generator=generator, dtype=dtype)

    def dense(x: Tensor, weight: Tensor) -> Tensor:
        inputs = SparseTensor.on(fine.maps, coarse if transposed else 1, x)
        if transposed:
            return dense_transposed(inputs, weight, size, dilation, fine.coordinates)
        sites = fine.maps.coordinates(coarse)
        return dense_convolution(inputs, weight, size, stride, dilation, sites)

    functions: dict[str, Function] = {"conv3d": dense}
    if _minkowski():
        functions["minkowski"] = partial(convolve, kernel_map=kernel_map, name="minkowski")
    ours = _pass(partial(convolve, kernel_map=kernel_map), x, weight)
    return {
        peer: max(_distance(a, b) for a, b in zip(ours, _pass(function, x, weight), strict=True))
        for peer, function in functions.items()
    }


@cache
def _minkowski() -> bool:
    """Whether MinkowskiEngine is installed."""
    try:
        backend("minkowski")
    except InputError:
        return False
    return True


def _pass(function: Function, x: Tensor, weight: Tensor) -> list[Tensor]:
    """The function's output, and the gradients of a loss of it by both arguments."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    output = function(x, weight)
    return [output.detach(), *torch.autograd.grad(output.sin().sum(), [x, weight])]


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a fraction of their largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def conclude(results: Results, folder: Path) -> Outcome:
    """A claim for each peer and precision."""
    claims = []
    for name, rows in results.items():
        peer, _, dtype = name.partition("-")
        claims.append(
            claim(
                f"sparsepipe.parity.{name}.measured",
                f"largest error over the largest value, outputs and gradients, against {peer}, "
                f"{dtype}: sizes 1, 2, 3, 5, strides 1 to 3, dilations 1 and 2, transposed, on "
                f"{CLOUD}",
                [row["error"] for row in rows],
                Target(most=MOST[getattr(torch, dtype)]),
                judged_by="largest",
            )
        )
    return Outcome(figures=(), claims=tuple(claims))

"""Features and weights for backends' tests."""

import torch

from sparsepipe.engine.kernel_map import KernelMap


def random_values(
    kernel_map: KernelMap, inner: int, outer: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """x [N, inner] and weight [K, inner, outer], which want gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(kernel_map.input_keys), inner), (len(kernel_map.counts), inner, outer)]
    x, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    )
    return x, weight

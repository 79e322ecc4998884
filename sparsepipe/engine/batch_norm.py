"""Batch normalisation of rows, with the sum of a shortcut and the ReLU that may follow it.

PyTorch's operators compute them one after the other. Where Triton's kernels run, one kernel for
each pass does all (`sparsepipe.engine.triton_norms`), as long as there are few rows.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn.modules.module import _has_any_global_hook

from sparsepipe.engine.triton_here import triton_serves

MOST_ROWS = 2**14
"""The rows up to which one kernel computes a pass. Only as many programs run as there are blocks of
channels, four for 32 channels in float32. For more rows, PyTorch's operators keep all of a GPU
busy, and starting them takes less time than computing. The number is estimated, not measured."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""The attributes of a module that hold what others want to be called with it."""


def batch_norm(
    features: Tensor, norm: nn.BatchNorm1d, shortcut: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """Normalise features [N, C] as `norm` in its mode does, with its running statistics, add
    `shortcut`, [N, C] of the same dtype, and set to 0 what is below, if `relu`.

    Under Triton's kernels sums are rounded once, and the result is differentiable once.
    """
    if served(features, norm):
        fused: Tensor = _Fused.apply(features, norm.weight, norm.bias, shortcut, norm, relu)
        return fused
    found: Tensor = norm(features)
    found = found if shortcut is None else found + shortcut
    return torch.relu(found) if relu else found


def served(features: Tensor, norm: nn.BatchNorm1d) -> bool:
    """Whether Triton's kernels compute what PyTorch would."""
    if torch.compiler.is_compiling() or not triton_serves(features.device):
        return False
    if type(norm) is not nn.BatchNorm1d or norm.momentum is None or hooked(norm):
        return False
    tensors = norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.num_batches_tracked
    return (
        norm.track_running_stats
        and all(tensor is not None and tensor.device == features.device for tensor in tensors)
        and features.shape[1] == norm.num_features
        and int(norm.training) < len(features) <= MOST_ROWS
    )


def hooked(*modules: nn.Module) -> bool:
    """Whether somebody wants to be called when one of some modules is."""
    return _has_any_global_hook() or any(
        getattr(module, name) for module in modules for name in HOOKS
    )


class _Fused(Function):
    """The differentiable function of the kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        shortcut: Tensor | None,
        norm: nn.BatchNorm1d,
        relu: bool,
    ) -> Tensor:
        """The output; what the backward pass needs is saved."""
        from sparsepipe.engine import triton_norms

        features = features.contiguous()
        shortcut = None if shortcut is None else shortcut.contiguous()
        output, *statistics = triton_norms.forward(features, norm, shortcut, relu=relu)
        ctx.save_for_backward(features, output if relu else None, weight, *statistics)
        ctx.of_batch, ctx.shortcut = norm.training, shortcut is not None
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all, since one kernel makes them together."""
        from sparsepipe.engine import triton_norms

        features, output, weight, *statistics = ctx.saved_tensors
        gradient = gradient if gradient.stride(1) == 1 else gradient.contiguous()
        found = triton_norms.backward(
            gradient,
            features,
            output,
            weight,
            statistics,
            of_batch=ctx.of_batch,
            shortcut=ctx.shortcut,
        )
        return *found, None, None

"""PyTorch's dense convolution of the whole box around the voxels."""

from math import prod

import torch
from torch import nn

from sparsepipe.bench.passes import Passes, layer_passes
from sparsepipe.bench.task import Task

MOST_OPERATIONS = 1e12
"""The largest number of floating-point operations of a step that is timed."""
MOST_BYTES = 1e9
"""The largest volume that is timed."""


def passes(task: Task) -> Passes:
    """The passes of a layer."""
    layer = nn.Conv3d(task.channels, task.channels, 3, padding=1, bias=False).to(task.device)
    volume = torch.zeros(task.batch_size, task.channels, *task.shape, device=task.device)
    sample, x, y, z = task.coordinates.long().unbind(1)
    volume[sample, :, x, y, z] = task.features
    volume.requires_grad_()
    return layer_passes(layer, lambda: layer(volume), volume)


def too_large(task: Task) -> str | None:
    """Why a layer's volume is too large for a benchmark; None: it is not."""
    cells = float(prod(task.shape)) * task.batch_size
    volume_bytes = cells * task.channels * 4
    if volume_bytes > MOST_BYTES:
        return f"a volume would take {volume_bytes / 1e9:.1f} GB, and a step several"
    operations = 3 * 2 * 27 * task.channels**2 * cells  # three products over 27 offsets
    return "a step would take minutes" if operations > MOST_OPERATIONS else None

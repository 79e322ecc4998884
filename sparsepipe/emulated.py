"""A pipeline's stand-ins for an emulated cluster: stages that wait as a profile says.

The schedule, transfers, all-reduces and the runtime around them are those of a real run; values are
plain tensors of zeros, of the sizes that would cross. See systems.emulated for what a layer does.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sparsepipe.reduction import PARTS
from sparsepipe.values import Value, data
from systems.emulated import EmulatedDevice, Emulation, emulated_layers, joined, scaled
from systems.profile import ModelProfile


class EmulatedStage(nn.Module):
    """[b, in] to [b, out], scaled: what crosses a cut is one tensor."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, value: Tensor) -> tuple[Tensor]:
        """Wait for all layers."""
        return (self.layers(value),)


def emulated_stages(
    profile: ModelProfile,
    bounds: Sequence[tuple[int, int]],
    cut_bytes: Sequence[float],
    emulation: Emulation,
) -> list[nn.Module]:
    """All stages on one device, which runs one at a time.

    Layers with few parameters join the one before them: thousands of short waits would cost more
    than they stand for. Between the layers of a stage nothing is sent, so nothing has a size.

    Args:
        profile: of this rank's device, at the mini-batch's size.
        bounds: (first, end) of every stage.
        cut_bytes: [layers + 1], what crosses a cut before each layer, for the mini-batch.
    """
    device, stages = EmulatedDevice(), list[nn.Module]()
    for first, end in bounds:
        own = profile.layers[first:end]
        layers = joined(own, sum(layer.parameter_bytes for layer in own) / (2 * PARTS))
        layers = [replace(layer, activation_bytes=0) for layer in layers]
        layers[-1] = replace(layers[-1], activation_bytes=round(cut_bytes[end]))
        chain = emulated_layers(
            layers,
            profile.batch_size,
            in_features=scaled(cut_bytes[first] / profile.batch_size, emulation),
            emulation=emulation,
            device=device,
        )
        stages.append(EmulatedStage(chain))
    return stages


class EmulatedBatches:
    """Mini-batches of samples that are a single zero each, all of one size."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size

    def voxels(self, mini_batch: int) -> list[int]:
        """One for each sample."""
        return [1] * self._batch_size

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """[b, 1]."""
        return (torch.zeros(len(samples), 1),)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """[b]."""
        return torch.zeros(len(samples))

    def count(self, mini_batch: int) -> int:
        """The number of samples."""
        return self._batch_size


def emulated_loss(output: Value, targets: Tensor) -> Tensor:
    """Something whose backward pass takes no time."""
    return data(output)[:, 0].sum()

"""Makes the network that stands for a model on an emulated cluster, from the model's profile.

It has the layers of the profile in order, in one part before the cut and one after it, so that it
is separated as the real model is. Its layers wait instead of computing (see
`systems.profiles.emulated`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from stanza.cut.rule import cut_profile
from stanza.layout import Layout
from stanza.options import Options
from stanza.train.workload import Workload
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from systems.data.dataset import zeros
from systems.profiles.emulated import (
    EmulatedDevice,
    EmulatedOptimizer,
    emulated_layers,
    joined,
    scaled,
)
from systems.profiles.emulation import Emulation
from systems.profiles.profile import LayerProfile, ModelProfile


class EmulatedNetwork(nn.Module):
    """Runs the convolutional part and then the FC part.

    Samples [b, 1] become logits [b, classes]; the sizes in between are scaled down.
    """

    def __init__(self, conv: nn.Module, fc: nn.Module) -> None:
        super().__init__()
        self.conv, self.fc = conv, fc

    def forward(self, images: Tensor) -> Tensor:
        """Run both parts on samples [b, 1]."""
        logits: Tensor = self.fc(self.conv(images))
        return logits


def emulated_network(profile: ModelProfile, emulation: Emulation) -> EmulatedNetwork:
    """Build a network whose layers take the time that the profile says, on one emulated device.

    A layer with fewer parameters than fill a message joins the one before it: nothing is sent
    because of it, and thousands of short waits would take longer than they should.
    """
    cut = cut_profile(profile)
    conv = [layer for layer in profile.layers if layer.name not in cut.fc]
    fc = [layer for layer in profile.layers if layer.name in cut.fc]
    crossing = sum(layer.activation_bytes for layer in conv if layer.name in cut.crossing)
    conv_joined = joined(conv, SMALLEST_MESSAGE_BYTES)
    conv_joined[-1] = replace(conv_joined[-1], activation_bytes=crossing)
    device = EmulatedDevice()

    def chain(layers: Sequence[LayerProfile], in_features: int) -> nn.Module:
        return emulated_layers(
            layers, profile.batch_size, in_features=in_features, emulation=emulation, device=device
        )

    cut_values = scaled(crossing / profile.batch_size, emulation)
    return EmulatedNetwork(
        chain(conv_joined, 1), chain(joined(fc, SMALLEST_MESSAGE_BYTES), cut_values)
    )


def emulated_workload(
    options: Options,
    layout: Layout,
    profile: ModelProfile,
    emulation: Emulation,
    devices: Sequence[str] = (),
) -> Workload:
    """Make the workload of an emulated run: each sample is a single zero, and nothing is tested.

    Args:
        profile: of the device of this rank.
        devices: the kinds of device of all ranks, where they differ.
    """
    samples = options.samples_per_step(len(layout.data_ranks))
    kinds = ", ".join(dict.fromkeys(devices)) or profile.device
    kind = f"none (waits of {profile.name} on {kinds}; no optimizer, schedule or loss)"
    return Workload(
        zeros(samples, kind),
        partial(emulated_network, profile, emulation),
        EmulatedOptimizer,
        message_scale=emulation.scale,
    )

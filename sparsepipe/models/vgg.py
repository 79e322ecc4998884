"""MinkVGG16 with batch normalisation: the classifier of the SparsePipe paper (arXiv 2012.13846).

Layers, channels and their order are those of the authors' profiles. Names are those of a
MinkowskiEngine model of the same layers, so that its checkpoints load.
"""

from typing import Any

from torch import nn

from sparsepipe.models.kit import SPARSE, Kit

# fmt: off
PLANES: tuple[int | None, ...] = (
    64, 64, None,
    128, 128, None,
    256, 256, 256, None,
    512, 512, 512, None,
    512, 512, 512, None,
)
# fmt: on
"""The channels of the convolutions in their order; None is a max pooling that halves the
resolution."""
HIDDEN = 4096
"""The hidden units of the fully connected layers."""


class MinkVGG16(nn.Module):
    """13 convolutions, global max pooling, three fully connected layers."""

    def __init__(
        self, in_channels: int, classes: int, *, width: float = 1.0, kit: Kit = SPARSE
    ) -> None:
        """Build the network with fresh weights.

        Args:
            in_channels: the features of each voxel.
            classes: the number of labels.
            width: a factor on all channels and hidden units, for small runs.
            kit: sparse layers, or dense ones for the twin.
        """
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for planes in PLANES:
            if planes is None:
                layers.append(kit.max_pooling(2, 2))
                continue
            wide = round(planes * width)
            layers += [kit.convolution(channels, wide, 3), kit.batch_norm(wide), kit.relu()]
            channels = wide
        hidden = round(HIDDEN * width)
        self.features = nn.Sequential(*layers)
        self.pool = kit.global_max_pooling()
        self.classifier = nn.Sequential(
            kit.linear(channels, hidden),
            kit.relu(),
            kit.dropout(0.5),
            kit.linear(hidden, hidden),
            kit.relu(),
            kit.dropout(0.5),
            kit.linear(hidden, classes),
        )

    def forward(self, inputs: Any) -> Any:
        """Turn voxels [N, in_channels] into logits [batch size, classes], one row for each
        cloud."""
        return self.classifier(self.pool(self.features(inputs)))

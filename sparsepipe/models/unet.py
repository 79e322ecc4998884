"""MinkUNet: a network that labels every voxel, with skips over four resolutions.

Layers and names are those of MinkowskiEngine's MinkUNet family (C. Choy et al., 4D Spatio-Temporal
ConvNets, CVPR 2019), so that its checkpoints load.

    tensor stride 1    conv0 ------------------------------- skip ---> block8 - final
                  2      conv1, block1 -------------- skip ---> block7
                  4        conv2, block2 ------ skip ---> block6
                  8          conv3, block3 - skip -> block5
                 16            conv4, block4 --'
"""

from typing import Any

from torch import nn

from sparsepipe.engine.layers import norm_relu
from sparsepipe.models.kit import SPARSE, Kit

FIRST = 32
"""The channels of the first convolution."""
PLANES = (32, 64, 128, 256, 256, 128, 96, 96)
"""The channels of the eight groups of residual blocks: four on the way down, four on the way up."""
BLOCKS = {14: (1,) * 8, 18: (2,) * 8, 34: (2, 3, 4, 6, 2, 2, 2, 2)}
"""The number of residual blocks in each group, for each depth as the family counts it."""


class BasicBlock(nn.Module):
    """A residual block: two 3x3x3 convolutions, and a shortcut around both."""

    def __init__(self, in_channels: int, channels: int, kit: Kit) -> None:
        super().__init__()
        self.conv1, self.norm1 = kit.convolution(in_channels, channels, 3), kit.batch_norm(channels)
        self.conv2, self.norm2 = kit.convolution(channels, channels, 3), kit.batch_norm(channels)
        self.relu = kit.relu()
        self.downsample: nn.Module | None = None
        if in_channels != channels:
            shortcut = kit.convolution(in_channels, channels, 1)
            self.downsample = nn.Sequential(shortcut, kit.batch_norm(channels))

    def forward(self, inputs: Any) -> Any:
        """Turn features [N, in_channels] into [N, channels] on the same voxels."""
        out = norm_relu(self.norm1, self.relu, self.conv1(inputs))
        out = self.conv2(out)
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        return norm_relu(self.norm2, self.relu, out, shortcut)


class MinkUNet(nn.Module):
    """Four strided convolutions lead down, and four transposed ones up again. Each of these is
    joined with the features of the same resolution on the way down."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        depth: int = 18,
        width: float = 1.0,
        kit: Kit = SPARSE,
    ) -> None:
        """Build the network with fresh weights.

        Args:
            in_channels: the features of each voxel.
            classes: the number of labels.
            depth: 14, 18 or 34.
            width: a factor on all channels, for small runs.
            kit: sparse layers, or dense ones for the twin.
        """
        super().__init__()
        self._kit = kit
        first, *planes = (round(channels * width) for channels in (FIRST, *PLANES))
        blocks = BLOCKS[depth]
        self.conv0p1s1, self.bn0 = kit.convolution(in_channels, first, 5), kit.batch_norm(first)
        channels, skips = first, [first]
        for level in range(4):
            down = kit.convolution(channels, channels, 2, stride=2)
            self.add_module(f"conv{level + 1}p{2**level}s2", down)
            self.add_module(f"bn{level + 1}", kit.batch_norm(channels))
            block = _group(channels, planes[level], blocks[level], kit)
            self.add_module(f"block{level + 1}", block)
            channels = planes[level]
            skips.append(channels)
        for level in range(4, 8):
            up = kit.convolution_transpose(channels, planes[level], 2, stride=2)
            self.add_module(f"convtr{level}p{2 ** (8 - level)}s2", up)
            self.add_module(f"bntr{level}", kit.batch_norm(planes[level]))
            joined = planes[level] + skips[7 - level]
            block = _group(joined, planes[level], blocks[level], kit)
            self.add_module(f"block{level + 1}", block)
            channels = planes[level]
        self.final = kit.convolution(channels, classes, 1, bias=True)
        self.relu = kit.relu()

    def forward(self, inputs: Any) -> Any:
        """Turn voxels [N, in_channels] into logits [N, classes] on the same voxels."""
        part = self.get_submodule  # layers are named as in the checkpoints: conv1p1s2, ...
        out = norm_relu(self.bn0, self.relu, self.conv0p1s1(inputs))
        skips = [out]
        for level in range(4):
            out = part(f"conv{level + 1}p{2**level}s2")(out)
            out = norm_relu(part(f"bn{level + 1}"), self.relu, out)
            out = part(f"block{level + 1}")(out)
            skips.append(out)
        for level in range(4, 8):
            out = part(f"convtr{level}p{2 ** (8 - level)}s2")(out)
            out = norm_relu(part(f"bntr{level}"), self.relu, out)
            out = part(f"block{level + 1}")(self._kit.cat(out, skips[7 - level]))
        return self.final(out)


def _group(in_channels: int, channels: int, blocks: int, kit: Kit) -> nn.Sequential:
    """A group of residual blocks, of which the first changes the number of channels."""
    first = BasicBlock(in_channels, channels, kit)
    return nn.Sequential(first, *(BasicBlock(channels, channels, kit) for _ in range(blocks - 1)))

"""ResNet-50 and ResNet-152 of arXiv:1512.03385 (He, Zhang, Ren and Sun, 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

_EXPANSION = 4
"""A block's output has this many times the channels of its 3 x 3 convolution."""


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, added to a shortcut (arXiv:1512.03385, figure 5).

    The stride sits in the 3 x 3 convolution, not in the first 1 x 1 as in the paper: that is the
    variant whose checkpoints are in circulation ("ResNet v1.5").

    Shapes: (samples, channels, height, width) to
    (samples, 4 * width, height / stride, width / stride).
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        expanded = width * _EXPANSION
        self.conv1 = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, expanded, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(expanded)
        self.relu = nn.ReLU(inplace=True)
        # None leaves no entry in the state_dict, as checkpoints expect of an identity shortcut.
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != expanded:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, expanded, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(expanded),
            )

    def forward(self, block_input: Tensor) -> Tensor:
        """Map [b, C, H, W] to [b, 4 x width, H / stride, W / stride]."""
        residual = self.relu(self.bn1(self.conv1(block_input)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        shortcut = block_input if self.downsample is None else self.downsample(block_input)
        output: Tensor = self.relu(residual + shortcut)
        return output


def _stage(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """Build `blocks` bottlenecks, of which the first changes resolution and channels."""
    expanded = width * _EXPANSION
    return nn.Sequential(
        Bottleneck(channels, width, stride),
        *(Bottleneck(expanded, width, stride=1) for _ in range(blocks - 1)),
    )


class ResNet(nn.Module):
    """A residual network of bottlenecks. `blocks` has their number in each of its four stages.

    Source: "Deep residual learning for image recognition", arXiv:1512.03385, table 1.

    Shapes: images (samples, 3, height, width) to logits (samples, classes).
    """

    def __init__(self, blocks: Sequence[int], classes: int = 1000) -> None:
        super().__init__()
        first, second, third, fourth = blocks
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, first, stride=1)
        self.layer2 = _stage(256, 128, second, stride=2)
        self.layer3 = _stage(512, 256, third, stride=2)
        self.layer4 = _stage(1024, 512, fourth, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(2048, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # The initialisation of arXiv:1502.01852, which the ResNet paper adopts.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images [b, 3, 224, 224] to logits [b, classes]."""
        activation = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        activation = self.layer4(self.layer3(self.layer2(self.layer1(activation))))
        logits: Tensor = self.fc(self.avgpool(activation).flatten(1))
        return logits


def resnet50(classes: int = 1000) -> ResNet:
    """Build ResNet-50: (samples, 3, height, width) to (samples, classes); 25,557,032 parameters."""
    return ResNet((3, 4, 6, 3), classes)


def resnet152(classes: int = 1000) -> ResNet:
    """Build ResNet-152: (samples, 3, height, width) to (samples, classes); 60,192,808
    parameters."""
    return ResNet((3, 8, 36, 3), classes)

"""Small relatives of AlexNet, VGG-16 and ResNet-50 for grey images of 28 x 28 pixels.

Stanza gains where most parameters are in the fully connected (FC) layers and most arithmetic in
the convolutional ones. So a small network stands for a real one, in that respect, if it has the
same ratio of FC to convolutional parameters:

                AlexNet   AlexNet28     VGG-16   VGG28      ResNet-50   ResNet28
    FC / conv     23.74       23.65       8.40    8.34         0.0872     0.0876

The layers have the order and the kinds of those of the real networks, and the values that cross the
cut in a step are about as many beside the parameters. They have neither dropout nor batch
normalisation, so that runs with different layouts can be compared number by number.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def _initialise(network: nn.Module) -> None:
    """Draw weights that keep the scale from layer to layer (arXiv:1502.01852): without dropout and
    normalisation, the few steps of these networks' training depend on it."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def _convolution(channels: int, width: int, size: int = 3) -> list[nn.Module]:
    """Build a convolution that keeps height and width, and its ReLU."""
    return [nn.Conv2d(channels, width, kernel_size=size, padding=size // 2), nn.ReLU(inplace=True)]


def _classifier(features: int, widths: Sequence[int], classes: int) -> nn.Sequential:
    """Build fully connected layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(features, width), nn.ReLU(inplace=True)]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


class AlexNet28(nn.Module):
    """Five convolutions and three fully connected layers, as AlexNet has; 296,218 parameters.

    The FC part has 23.65 times the parameters of the convolutional one; AlexNet's has 23.74 times.

    Shapes: images (samples, 1, 28, 28) to logits (samples, classes). Other sizes reach the same
    classifier.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(1, 16, 5),
            nn.MaxPool2d(kernel_size=2),
            *_convolution(16, 16),
            nn.MaxPool2d(kernel_size=2),
            *_convolution(16, 16),
            *_convolution(16, 16),
            *_convolution(16, 32),
            nn.MaxPool2d(kernel_size=2, ceil_mode=True),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.classifier = _classifier(32 * 4 * 4, (332, 332), classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [b, 1, 28, 28] to logits [b, classes]."""
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


class VGG28(nn.Module):
    """Seven 3 x 3 convolutions in three groups and three fully connected layers, as VGG-16 has
    thirteen in five; 181,126 parameters.

    The FC part has 8.34 times the parameters of the convolutional one; VGG-16's has 8.40 times.

    Shapes: images (samples, 1, 28, 28) to logits (samples, classes). Other sizes reach the same
    classifier.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for widths in ((12, 12), (16, 16), (24, 24, 24)):
            for width in widths:
                layers += _convolution(channels, width)
                channels = width
            layers.append(nn.MaxPool2d(kernel_size=2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = _classifier(24 * 3 * 3, (304, 304), classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [b, 1, 28, 28] to logits [b, classes]."""
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


class Residual(nn.Module):
    """Two 3 x 3 convolutions, added to a shortcut (arXiv:1512.03385, figure 5, left).

    The second convolution begins with zeros, so that the block begins as its shortcut: that stands
    in for batch normalisation (arXiv:1901.09321, section 3).

    Shapes: (samples, channels, h, w) to (samples, width, h / stride, w / stride).
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != width:
            self.downsample = nn.Conv2d(channels, width, kernel_size=1, stride=stride)

    def forward(self, block_input: Tensor) -> Tensor:
        """Map [b, channels, h, w] to [b, width, h / stride, w / stride]."""
        residual = self.conv2(self.relu(self.conv1(block_input)))
        shortcut = block_input if self.downsample is None else self.downsample(block_input)
        output: Tensor = self.relu(residual + shortcut)
        return output


class ResNet28(nn.Module):
    """A stem, four residual blocks and one fully connected layer; 58,392 parameters.

    With 96 outputs for its 48 features the FC part has 0.0876 times the parameters of the
    convolutional one; ResNet-50's, with 1000 outputs for 2048 features, has 0.0872 times. Data with
    fewer classes leave outputs unused: with ten outputs the FC part would be next to nothing.

    Shapes: images (samples, 1, 28, 28) to logits (samples, classes).
    """

    def __init__(self, classes: int = 96) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, kernel_size=3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = Residual(12, 12, stride=1)
        self.layer2 = nn.Sequential(Residual(12, 24, stride=2), Residual(24, 24, stride=1))
        self.layer3 = Residual(24, 48, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(48, classes)
        _initialise(self)
        for block in self.modules():
            if isinstance(block, Residual):
                nn.init.zeros_(block.conv2.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [b, 1, 28, 28] to logits [b, classes]."""
        activation = self.layer1(self.relu(self.conv1(images)))
        activation = self.layer3(self.layer2(activation))
        logits: Tensor = self.fc(self.avgpool(activation).flatten(1))
        return logits

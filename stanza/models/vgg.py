"""VGG-16, configuration D of arXiv:1409.1556 (Simonyan and Zisserman, 2014)."""

from __future__ import annotations

from torch import Tensor, nn

# The output channels of the 3 x 3 convolutions between two poolings.
_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _features() -> nn.Sequential:
    """Build the convolutional part: (samples, 3, h, w) to (samples, 512, h / 32, w / 32)."""
    layers: list[nn.Module] = []
    channels = 3
    for widths in _WIDTHS:
        for width in widths:
            layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return nn.Sequential(*layers)


class VGG16(nn.Module):
    """Thirteen 3 x 3 convolutions and three fully connected layers; 138,357,544 parameters.

    Source: "Very deep convolutional networks for large-scale image recognition",
    arXiv:1409.1556, configuration D.

    Shapes: images (samples, 3, height, width), at least 32 pixels a side, to logits
    (samples, classes).
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = _features()
        # At the published 224 x 224 this changes nothing. Other sizes reach the same classifier.
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, classes),
        )
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                # Without normalisation, the default initial scale fades out over thirteen layers.
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [b, 3, 224, 224] to logits [b, classes]."""
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits

"""AlexNet, the one-tower version of arXiv:1404.5997 (Krizhevsky, 2014)."""

from __future__ import annotations

from torch import Tensor, nn


class AlexNet(nn.Module):
    """Five convolutions and three fully connected layers; 61,100,840 parameters.

    Source: "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997,
    the model of Krizhevsky et al. (NIPS 2012) without its split over two devices.

    Shapes: images (samples, 3, height, width), at least 63 pixels a side, to logits
    (samples, classes).
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        # At the published 224 x 224 this changes nothing. Other sizes reach the same classifier.
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images [b, 3, 224, 224] to logits [b, classes]."""
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits

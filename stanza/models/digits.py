"""A small network for 8 x 8 grey images, such as the UCI handwritten digits.

It trains on a CPU within seconds, and it is a small AlexNet or VGG: most of the arithmetic is in
`features`, and most parameters are in `classifier`.
"""

from __future__ import annotations

from torch import Tensor, nn


class DigitsCNN(nn.Module):
    """Two convolutions and two fully connected layers; 548,746 parameters.

    It has neither dropout nor batch statistics, so that runs with different layouts can be compared
    number by number.

    Shapes: images (samples, 1, 8, 8) to logits (samples, classes).
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(64 * 4 * 4, 512), nn.ReLU(inplace=True), nn.Linear(512, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images [b, 1, 8, 8] to logits [b, classes]."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits

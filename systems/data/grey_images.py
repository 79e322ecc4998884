"""Grey images in memory, a byte a pixel, as the files of MNIST and its relatives store them.

Sixty thousand images of 28 x 28 pixels take 47 MB in this form, and four times that as float32.
Each batch is converted and normalised when it is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from systems.data.dataset import Batch, Indices

WHITE = 255

Pixels = tuple[np.ndarray, np.ndarray]
"""Images uint8 [N, H, W], 0 for black and 255 for white, and their labels int64 [N]."""


@dataclass(frozen=True, eq=False)
class GreySplit:
    """Grey images with labels, read when the first batch is asked for."""

    length: int
    read: Callable[[], Pixels]
    mean: float
    """The mean of all training pixels, where white is 1."""
    deviation: float
    """Their standard deviation."""

    def __len__(self) -> int:
        return self.length

    @cached_property
    def samples(self) -> Pixels:
        """All images and labels."""
        return self.read()

    def batch(self, indices: Indices) -> Batch:
        """The samples with these numbers: images float32 [B, 1, H, W], normalised to mean 0 and
        deviation 1 over the training images, and labels int64 [B]."""
        import torch

        pixels, labels = self.samples
        chosen = np.asarray(indices, dtype=np.int64)
        images = torch.from_numpy(pixels[chosen]).unsqueeze(1).to(torch.float32)
        images = (images / WHITE - self.mean) / self.deviation
        return images, torch.from_numpy(labels[chosen])

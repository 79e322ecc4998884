"""What one rank sees of a step's samples."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from stanza.workers.targets import Targets


@dataclass(frozen=True)
class LocalBatch:
    """One step's samples as one rank sees them: its own, and the numbers of all ranks."""

    images: Tensor
    """Images [b, C, H, W]. On a rank without data b is 0."""
    targets: Targets
    """The targets of these images. Without samples they tell structure, dtypes and shapes."""
    sizes: Sequence[int]
    """The number of samples of every rank, by rank."""

    @property
    def global_size(self) -> int:
        """The number of samples over all ranks."""
        return sum(self.sizes)

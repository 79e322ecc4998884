"""What MinkowskiEngine's tensors and fields share: short names, and the parts of a batch."""

from typing import Any, Self

from torch import Tensor


class Rows:
    """A base beside the class that has the features."""

    features: Tensor

    @property
    def F(self) -> Tensor:
        """The features [N, C]."""
        return self.features

    @property
    def C(self) -> Tensor:
        """The coordinates [N, D + 1], the batch first."""
        raise NotImplementedError

    @property
    def D(self) -> int:
        """The number of axes."""
        return self.C.shape[1] - 1

    @property
    def decomposition_permutations(self) -> list[Tensor]:
        """The rows of each sample."""
        batch, samples = self.C[:, 0].round(), range(self.samples)
        return [(batch == sample).nonzero()[:, 0] for sample in samples]

    @property
    def samples(self) -> int:
        """The number of samples, empty ones included."""
        raise NotImplementedError

    @property
    def decomposed_coordinates(self) -> list[Tensor]:
        """The coordinates [N_b, D] of each sample, without the batch."""
        coordinates = self.C[:, 1:]
        return [coordinates[rows] for rows in self.decomposition_permutations]

    @property
    def decomposed_features(self) -> list[Tensor]:
        """The features [N_b, C] of each sample."""
        return [self.features[rows] for rows in self.decomposition_permutations]

    @property
    def decomposed_coordinates_and_features(self) -> tuple[list[Tensor], list[Tensor]]:
        """Both, sample by sample."""
        return self.decomposed_coordinates, self.decomposed_features

    def coordinates_at(self, batch_index: int) -> Tensor:
        """The coordinates [N_b, D] of one sample."""
        return self.decomposed_coordinates[batch_index]

    def features_at(self, batch_index: int) -> Tensor:
        """The features [N_b, C] of one sample."""
        return self.features[self.decomposition_permutations[batch_index]]

    def coordinates_and_features_at(self, batch_index: int) -> tuple[Tensor, Tensor]:
        """Both of one sample."""
        return self.coordinates_at(batch_index), self.features_at(batch_index)

    def replace(self, features: Tensor) -> Self:
        """The same coordinates with other features."""
        raise NotImplementedError

    @property
    def requires_grad(self) -> bool:
        """Whether the features have gradients."""
        return self.features.requires_grad

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let the features have gradients, or not."""
        self.features.requires_grad_(requires_grad)
        return self

    def detach(self) -> Self:
        """A tensor without the history of its features. (MinkowskiEngine's changes itself.)"""
        return self.replace(self.features.detach())

    def float(self) -> Self:
        """A tensor of float32."""
        return self.replace(self.features.float())

    def double(self) -> Self:
        """A tensor of float64."""
        return self.replace(self.features.double())

    def size(self, *axis: int) -> Any:
        """The shape of the features, [N, C], or its size along an axis."""
        return self.features.size(*axis)

    def get_device(self) -> int:
        """The number of the GPU, or -1."""
        return self.features.get_device()

    def __pow__(self, power: Any) -> Self:
        return self.replace(self.features**power)

"""SparsePipe's networks. Single-device code; whatever runs them in parallel is elsewhere."""

from collections.abc import Callable
from functools import partial

from torch import nn

from sparsepipe.models.kit import DENSE, SPARSE, Kit
from sparsepipe.models.unet import MinkUNet
from sparsepipe.models.vgg import MinkVGG16

__all__ = ["DENSE", "NETWORKS", "SPARSE", "Kit", "MinkUNet", "MinkVGG16"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "minkvgg16-bn": MinkVGG16,
    **{f"minkunet{depth}": partial(MinkUNet, depth=depth) for depth in (14, 18, 34)},
}
"""By the names of the command line: NETWORKS[name](in_channels, classes, width=1.0, kit=SPARSE).
The names stand in `sparsepipe.names` too."""

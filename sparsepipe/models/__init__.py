"""SparsePipe's networks, written for one device. `sparsepipe.runtime` divides them over several.

kit          the layers that a network is built of: sparse ones, or their dense twins
dense twin   the same network on nn.Conv3d, which computes every cell of the volume
width        a factor on all channels of a network, for small runs
classifier   a network that returns a row for every cloud; others return one for every voxel
"""

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
"""What makes each network, by its name on the command line:
NETWORKS[name](in_channels, classes, width=1.0, kit=SPARSE).
The names stand in `sparsepipe.names` too."""

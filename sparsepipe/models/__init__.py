"""SparsePipe's networks. Single-device code; whatever runs them in parallel is elsewhere."""

from sparsepipe.models.kit import DENSE, SPARSE, Kit
from sparsepipe.models.unet import MinkUNet
from sparsepipe.models.vgg import MinkVGG16

__all__ = ["DENSE", "SPARSE", "Kit", "MinkUNet", "MinkVGG16"]

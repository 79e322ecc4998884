"""What stands in `MinkowskiEngine.modules`: blocks that networks are built of."""

from sparsepipe.minkowski.modules import resnet_block

__all__ = ["resnet_block"]

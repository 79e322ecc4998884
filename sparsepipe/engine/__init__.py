"""Sparse tensors and the layers over them: voxels, kernel maps, convolutions, poolings."""

"""SparsePipe (arXiv 2012.13846): sparse tensors, layers, networks and point clouds so far."""

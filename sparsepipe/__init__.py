"""SparsePipe (arXiv 2012.13846): sparse tensors, layers and networks so far."""

"""SparsePipe (arXiv 2012.13846): so far its sparse tensors and layers; `launch` offers none yet."""

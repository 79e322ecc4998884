"""SparsePipe (arXiv 2012.13846): sparse tensors and layers so far; `launch` does not offer it yet."""

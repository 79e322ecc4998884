"""SparsePipe (arXiv 2012.13846): sparse 3D convolution, pipelined over unequal devices."""

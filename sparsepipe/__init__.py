"""SparsePipe (arXiv 2012.13846): planned, not part of this version. `launch` does not offer it."""

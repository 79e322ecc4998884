"""Speculative sampling (arXiv 2406.11016): verification, its kernels, decoding, two tasks."""

"""Speculative sampling (arXiv 2406.11016): planned, not part of this version."""

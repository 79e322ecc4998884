"""Verifies draft tokens: the operator, its compiled kernels, and its reference."""

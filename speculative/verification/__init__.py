"""Verifies draft tokens: the operator, its compiled kernels, and its reference."""

CAUTION = 4.0
"""How much worse the calibrated rule takes a wrong distribution to be than a lost acceptance of the
same size."""

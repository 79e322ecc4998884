"""Shows how a long command goes: a live table on the terminal, and curves for TensorBoard."""

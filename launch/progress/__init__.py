"""What a run shows while it goes: a table of the ranks, a bar, TensorBoard."""

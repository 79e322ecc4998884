"""Shows how a run goes: a table of the ranks on the terminal, and curves for TensorBoard."""

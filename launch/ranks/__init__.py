"""What the launched processes do: the worker of a run, and the ranks of an emulation."""

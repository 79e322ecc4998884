"""The runtime of a pipeline: cuts a network into stages, and plays a schedule over ranks."""

"""Trains a sparse network: in one process, in a pipeline, emulated, or under DeepSpeed."""

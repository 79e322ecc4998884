"""Trains a CNN under any scheme: the data, what each rank does in a step, and the loop."""

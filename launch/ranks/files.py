"""The files of a folder in which a shaped cluster is measured before its runs."""

JOB, SHAPE = "job.toml", "shape.json"
"""What is measured."""
MEASURED = "measured.json"
"""What was found; rank 0 writes it."""

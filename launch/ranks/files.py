"""The files of a folder in which a shaped cluster is measured before its runs."""

JOB, SHAPE = "job.toml", "shape.json"
"""What is measured."""
FAILED = "failed-rank"
"""Which rank failed first."""
MEASURED = "measured.json"
"""What was found; rank 0 writes it."""

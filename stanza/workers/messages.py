"""How large the messages of the baselines are. Workers send such messages, and the planner predicts
with their sizes; it needs no torch for that."""

BUCKET_MEBIBYTES = 25
"""The size of a bucket: DDP's default. Stated explicitly it holds for the first bucket too, which
DDP would otherwise make 1 MiB."""
SMALLEST_MESSAGE_BYTES = 256 * 1024
"""A layer that would make a smaller message joins the next layer's, since every message has a fixed
cost. A bucket is one message for each server."""

"""How large the messages of the baselines are. Workers send such messages, and the planner predicts
with their sizes; it needs no torch for that."""

BUCKET_MEBIBYTES = 25
"""DDP's default. Given explicitly, it is the first bucket's size too, which else is 1 MiB."""
SMALLEST_MESSAGE_BYTES = 256 * 1024
"""Layers whose messages to a parameter server would be smaller travel with the next layer: a
message has a fixed cost. With several servers a bucket is that many messages."""

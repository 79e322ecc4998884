"""What the paper reports, and what this project asks of itself, where several figures need it."""

PAPER = "arXiv 1812.10624, abstract"
PAPER_RANGE = (1.34, 13.9)
"""Stanza over parameter servers, over all the paper's models."""

BASELINES = ("ps-blocking", "ps-pipelined", "ps-sharded", "ddp")

MODELS = ("alexnet", "vgg16", "resnet50", "inception-v3")
"""Models of the paper with measured profiles."""
CLUSTER = "ec2-p3-10g"
"""The paper's cluster: 10 nodes, 10 Gb/s."""

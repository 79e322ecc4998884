"""Finds where a CNN is cut, and cuts it, between its convolutional part and its FC part.

`tracing` gets the network's graph from torch.fx, `side_effects` refuses what the graph would
forget, `network` finds out what each node of it does, `rule` decides where the cut is, and
`separate` makes a module of each side.
"""

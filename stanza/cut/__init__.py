"""Where a CNN is cut between its convolutional part and its fully-connected part."""

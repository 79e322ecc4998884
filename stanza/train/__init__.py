"""Trains a CNN with any scheme: the data, the roles of the ranks, and the loop."""

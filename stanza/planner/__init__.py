"""Predicts the step time of every scheme on a cluster, and chooses the fastest layout."""

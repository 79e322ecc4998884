"""Plots, the claims that stand under them, and the published figures that they answer."""

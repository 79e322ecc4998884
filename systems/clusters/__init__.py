"""Clusters: nodes, their devices and their links; the presets lie here as TOML files."""

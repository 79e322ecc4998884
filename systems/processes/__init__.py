"""Processes and threads of a run: how they end, how long they wait, and why they failed."""

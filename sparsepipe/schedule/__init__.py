"""Schedules as data: every rank's list of actions, their costs, and the simulator that plays
them."""

"""Processes and threads of a run: how they end, how long they wait, and why they failed.

waiting     a rank is waiting while it cannot go on without something that other ranks do
hang        a wait for other ranks that is longer than the run's time-out
watchdog    the thread of every rank that notices a hang and ends the run
silent      a rank that does not say what it does although it is asked
"""

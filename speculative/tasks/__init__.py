"""Trains pairs of a target and a draft, and scores them on summarization and speech recognition."""

"""Pairs of a target and a draft, trained and scored on summarization and speech recognition."""

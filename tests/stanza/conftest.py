"""No test of this folder has a time limit: machines are slow at times."""

from hypothesis import settings

settings.register_profile("stanza", deadline=None)
settings.load_profile("stanza")

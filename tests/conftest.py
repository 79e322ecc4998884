"""No test has a time limit: machines are slow at times."""

from hypothesis import settings

settings.register_profile("testbed", deadline=None)
settings.load_profile("testbed")

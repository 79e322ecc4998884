"""No test has a time limit: machines are slow at times."""

import pytest
from hypothesis import settings

from systems.namespaces import unavailable

settings.register_profile("testbed", deadline=None)
settings.load_profile("testbed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an emulated cluster where there is none."""
    reason = unavailable() if item.get_closest_marker("emulated") else None
    if reason is not None:
        pytest.skip(reason)

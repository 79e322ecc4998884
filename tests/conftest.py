"""No test has a time limit: machines are slow at times."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from systems.network.namespaces import unavailable

settings.register_profile("testbed", deadline=None)
settings.load_profile("testbed")

if "TESTBED_DATA" in os.environ:  # tests change folders, and the name may be a relative one
    os.environ["TESTBED_DATA"] = str(Path(os.environ["TESTBED_DATA"]).absolute())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless `-m` asks for it."""
    if "slow" not in config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an emulated cluster where there is none."""
    reason = unavailable() if item.get_closest_marker("emulated") else None
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new working directory, of whose modules this process forgets all afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]

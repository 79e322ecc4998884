"""Ranks and tests import the examples from where they stand; no test needs them installed here."""

import sys
from pathlib import Path

import pytest

from tests.examples.installed import install

sys.path += [str(folder) for folder in (Path(__file__).parents[2] / "examples").iterdir()]


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the module's EXAMPLE is installed."""
    folder = tmp_path_factory.mktemp("environment") / "site"
    install(request.module.EXAMPLE, folder)
    return folder

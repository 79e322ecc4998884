"""Ranks and tests import the examples from where they stand; no test needs them installed here."""

import sys
from pathlib import Path

sys.path += [str(folder) for folder in (Path(__file__).parents[2] / "examples").iterdir()]

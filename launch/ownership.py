"""Finds foreign packages that shadow ours: PyPI has others called stanza, launch and systems.

Only the standard library is imported: this must run where a foreign package shadows ours.
"""

import importlib.util
from pathlib import Path

PACKAGES = ("systems", "stanza", "sparsepipe", "speculative", "launch")


def foreign_packages() -> dict[str, str]:
    """Our packages that another distribution shadows, by name, with the file found instead."""
    home = Path(__file__).resolve().parent.parent
    foreign = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = "nowhere" if spec is None or spec.origin is None else spec.origin
        if Path(origin).resolve().parent.parent != home:
            foreign[name] = origin
    return foreign

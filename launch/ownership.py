"""Whether the packages that Python finds are this testbed's: PyPI has a stanza, launch and systems.

Standard library only: it must run where a foreign package shadows ours.
"""

import importlib.util
from pathlib import Path

PACKAGES = ("systems", "stanza", "sparsepipe", "speculative", "launch")


def foreign_packages() -> dict[str, str]:
    """Names of our packages that another distribution shadows, and the file found instead."""
    home = Path(__file__).resolve().parent.parent
    found = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = "nowhere" if spec is None or spec.origin is None else spec.origin
        if Path(origin).resolve().parent.parent != home:
            found[name] = origin
    return found

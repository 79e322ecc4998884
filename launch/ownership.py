"""Which packages are the testbed's own, and which foreign ones shadow them: PyPI has others of the
same names.

Only the standard library is imported: this must run where a foreign package shadows ours.
"""

import importlib.util
from pathlib import Path

BUILT_IN = {
    "stanza": "stanza.system:SYSTEM",
    "sparsepipe": "sparsepipe.system:SYSTEM",
    "speculative": "speculative.system:SYSTEM",
}
"""The entry points of the systems that belong to the testbed, for a checkout that is not installed.
The first of them runs where a user names no system."""
PACKAGES = ("systems", "launch", *(value.partition(".")[0] for value in BUILT_IN.values()))


def foreign_packages() -> dict[str, str]:
    """Return the names of our packages that another distribution shadows, with the file of the
    other one."""
    home = Path(__file__).resolve().parent.parent
    foreign = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = "nowhere" if spec is None or spec.origin is None else spec.origin
        if Path(origin).resolve().parent.parent != home:
            foreign[name] = origin
    return foreign

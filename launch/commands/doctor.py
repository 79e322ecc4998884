"""`testbed doctor`: what this machine has and lacks, and which command mends what is missing.

python -m launch doctor             # a line for each finding; exit code 0 if the base works
python -m launch doctor --json      # the same for programs
python -m launch doctor --clean     # end the processes, remove the groups of killed runs

Until the first findings are made, only the standard library is imported: the doctor must run where
packages are missing or shadowed.
"""

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from launch.ownership import PACKAGES, foreign_packages
from systems.finding import INSTALL, Finding

BASE = {
    "torch": "torch",
    "numpy": "numpy",
    "matplotlib": "matplotlib",
    "tyro": "tyro",
    "rich": "rich",
    "tomli_w": "tomli-w",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "PIL": "pillow",
    "jinja2": "jinja2",
    "markdown_it": "markdown-it-py",
}
"""The modules that everything needs, and the distributions that have them."""


def main(arguments: Sequence[str]) -> None:
    """Print the findings; exit with code 1 if something that everything needs is broken."""
    flags = list(arguments)
    if {"-h", "--help"} & set(flags):
        print(__doc__)
        return
    findings = [python(), *(own_package(name) for name in PACKAGES), base_packages()]
    if any(not one.works for one in findings):  # nothing else can be imported
        _print_findings(findings, flags == ["--json"])
        raise SystemExit(1)

    from systems.schema import InputError

    if flags not in ([], ["--json"], ["--clean"]):
        raise InputError(f"doctor {' '.join(flags)}: give --json or --clean, or nothing")
    from launch.commands import checks

    if flags == ["--clean"]:
        processes, groups = checks.clean()
        print(
            f"{processes} processes of emulated clusters were left over, and are ended; "
            f"{groups} control groups, and are removed"
        )
        return
    findings += checks.all_checks()
    _print_findings(findings, flags == ["--json"])
    if any(one.required and not one.works for one in findings):
        raise SystemExit(1)


def _print_findings(findings: Sequence[Finding], as_json: bool) -> None:
    """Print a line for each finding and a summary, or all of them as JSON."""
    broken = [one.name for one in findings if one.required and not one.works]
    if as_json:
        print(json.dumps({"works": not broken, "findings": [asdict(one) for one in findings]}))
        return
    for one in findings:
        print(one)
    missing = sum(not one.works for one in findings)
    if broken:
        print(f"the base does not work: mend {', '.join(broken)} first")
    else:
        print(f"the base works; {missing} other things are missing")


def python() -> Finding:
    """Find out whether Python is 3.11 or newer."""
    return Finding(
        name="python",
        works=sys.version_info >= (3, 11),
        found=f"{sys.version.split()[0]} at {sys.executable}",
        needed_for="everything, 3.11 or newer",
        command="make PYTHON=python3.11 .venv/installed",
        required=True,
    )


def own_package(name: str) -> Finding:
    """Find out whether a package is ours: PyPI has others of the same names."""
    origin = foreign_packages().get(name)
    return Finding(
        name=f"package {name}",
        works=origin is None,
        found="this testbed's" if origin is None else f"a foreign one from {origin}",
        needed_for="everything",
        command=f"python -m pip uninstall {name}",
        required=True,
    )


def base_packages() -> Finding:
    """Find out whether all packages are installed on which the testbed depends."""
    missing = [name for module, name in BASE.items() if importlib.util.find_spec(module) is None]
    return Finding(
        name="packages",
        works=not missing,
        found=f"missing: {', '.join(missing)}" if missing else ", ".join(BASE.values()),
        needed_for="everything",
        command=INSTALL,
        required=True,
    )

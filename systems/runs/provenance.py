"""Says what software and hardware a measurement was taken with."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from systems.gpus import gpu_names


def environment() -> dict[str, Any]:
    """The software and hardware under this process that may change a measurement."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("systems-testbed", "torch", "numpy")},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpus": gpu_names(),
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    """The version of an installed distribution; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The name of this machine's processor, as Linux or Python know it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git_commit() -> str | None:
    """The git commit of the testbed's source, with "-dirty" where files differ from it; None where
    the source is in no repository."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None

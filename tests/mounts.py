"""File systems of a test's own, in a private mount namespace: nobody else sees them."""

import functools
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def in_mounts(
    mounts: Mapping[Path, str], command: Sequence[str], afterwards: str = "true"
) -> subprocess.CompletedProcess[str]:
    """Run a command while small file systems in memory are mounted.

    Args:
        mounts: folders, with the options of mount(8).
        afterwards: what a shell does before they go; the exit code is the command's.
    """
    lines = [
        f"mount -t tmpfs -o {how} tmpfs {shlex.quote(str(where))} || exit 1"
        for where, how in mounts.items()
    ]
    script = "\n".join([*lines, shlex.join(command), "code=$?", afterwards, "exit $code"])
    return subprocess.run(
        ["unshare", "-m", "bash", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@functools.cache
def _can_mount() -> bool:
    if os.geteuid() != 0:
        return False
    try:
        words = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        return subprocess.run(words, capture_output=True).returncode == 0
    except OSError:
        return False


needs_mounts = pytest.mark.skipif(
    not _can_mount(), reason="mounts small file systems: needs root and unshare"
)

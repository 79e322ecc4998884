"""Emulated clusters for tests: a process of its own that forks ranks into network namespaces."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

needs_emulation = pytest.mark.emulated
"""Skips where no cluster can be emulated, see `tests/conftest.py`."""
ROOT = Path(__file__).parent.parent

HEADER = """
import os, signal, sys, time
from systems.network.emulate import emulate
from systems.network.namespaces import Network
"""


def start(source: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a Python program that may use `emulate` and `Network`."""
    return subprocess.Popen(
        [sys.executable, "-c", HEADER + source, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(source: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run such a program to its end."""
    process = start(source, *arguments)
    out, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(source, process.returncode, out, errors)


def namespaces() -> set[str]:
    """The network namespaces in which some process is."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.add(os.readlink(folder / "ns" / "net"))
        except OSError:  # gone meanwhile
            continue
    return found

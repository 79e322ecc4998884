"""Emulated clusters for tests: a process of its own that forks ranks into network namespaces."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

needs_emulation = pytest.mark.emulated
"""Skips where no cluster can be emulated, see `tests/conftest.py`."""
ROOT = Path(__file__).parent.parent

MARK = ("EMULATED_FOR", str(os.getpid()))
"""A variable of the programs that this process starts, by which they and their ranks are known."""

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
        env=dict([*os.environ.items(), MARK]),
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
    """The network namespaces in which programs that this process has started are, and their ranks;
    other clusters may be emulated on this machine."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if "=".join(MARK).encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(os.readlink(folder / "ns" / "net"))
        except OSError:  # gone meanwhile
            continue
    return found

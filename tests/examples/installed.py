"""A package of `examples/` or of the docs in an environment of its own, and its commands there."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.launch.test_start_up import REFUSING

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180
REFUSES_TORCH = f"{REFUSING}\nfrom launch.__main__ import main\nmain(sys.argv[1:])"
"""The command line, in a process in which nothing can import torch."""


def read(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text())


def imported(package: Path) -> set[str]:
    """The packages beside Python's own that the files of a folder import."""
    names = set[str]()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module).partition(".")[0])
    return names - sys.stdlib_module_names


def install(package: Path, folder: Path) -> None:
    """Install a package into `folder`, without network: whoever puts it on the path has it."""
    copied = folder.with_name(f"{folder.name}-source")  # setuptools leaves files beside it
    shutil.copytree(package, copied)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", folder, copied], check=True)


def launch(
    folder: Path, *words: str, inside: Path | None = None, without_torch: bool = False
) -> "subprocess.CompletedProcess[str]":
    """Run the command line where the packages of `folder` are installed.

    Args:
        inside: the working directory.
        without_torch: whether the process itself may not import torch; its ranks may.
    """
    program = ["-c", REFUSES_TORCH] if without_torch else ["-m", "launch"]
    return subprocess.run(
        [sys.executable, *program, *words],
        cwd=inside,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def launched(
    folder: Path, *words: str, inside: Path | None = None, without_torch: bool = False
) -> str:
    """What a command prints, which must succeed."""
    done = launch(folder, *words, inside=inside, without_torch=without_torch)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

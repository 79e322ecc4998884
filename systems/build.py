"""Build C++ and CUDA sources on first use; libraries that ctypes can load.

They are kept in a cache, one per source, flags, compiler and processor: the folder that
TESTBED_CACHE names, else `systems-testbed` in the user's cache folder. They need no header and no
library of torch, and nvcc needs no GPU.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

CPU_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math"),  # else comparisons are not vectorised
)


class BuildError(RuntimeError):
    """A compiler refused a source; the text holds its command and message."""


def find_compiler() -> list[str] | None:
    """The words that start the C++ compiler: those of CXX, else g++ on the path."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    return None if compiler is None else shlex.split(compiler)


def library(source: Path, instead: str, flags: Sequence[str] = ()) -> ctypes.CDLL | None:
    """The library of a C++ source. None where there is no compiler, with a warning that says what
    runs `instead`.

    Raises:
        BuildError: see `build`.
    """
    compiler = find_compiler()
    if compiler is None:
        warn_missing("g++", instead)
        return None
    return ctypes.CDLL(str(build(source, [*compiler, *CPU_FLAGS, *flags])))


def build(source: Path, command: Sequence[str]) -> Path:
    """Compile `source` unless the cache has it. Processes that build at once do not meet.

    Args:
        source: its folder's other files may be headers: a change of any is another library.
        command: the compiler and its flags.

    Raises:
        BuildError: with the compiler's message.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source.stem}-{_key(source, command)}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "made.so"
        words = [*command, "-o", str(made), str(source)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            raise BuildError(f"{shlex.join(words)} failed:\n{done.stderr}{done.stdout}")
        made.replace(path)
    return path


def cache_folder() -> Path:
    """Where built libraries are kept."""
    if "TESTBED_CACHE" in os.environ:
        return Path(os.environ["TESTBED_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "systems-testbed"


def warn_missing(compiler: str, instead: str) -> None:
    """Say once that there is no `compiler`, and what runs instead."""
    warnings.warn(f"no {compiler} here: {instead}", RuntimeWarning, stacklevel=3)


def _key(source: Path, command: Sequence[str]) -> str:
    digest = hashlib.sha256(repr([source.name, *command]).encode())
    for path in sorted(source.parent.iterdir()):
        digest.update(path.read_bytes())
    version = subprocess.run([command[0], "--version"], capture_output=True)
    digest.update(version.stdout)
    if "-march=native" in command:  # a cache may be shared by machines with other instructions
        digest.update(_processor().encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    )
    named = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), *sorted(set(named))])

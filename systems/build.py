"""Builds C++ and CUDA sources on first use, into libraries that ctypes can load.

The libraries are kept in a cache: the folder that TESTBED_CACHE names, else `systems-testbed` in
the user's cache folder. There is one for every source, compiler, set of flags and processor. They
need no header and no library of torch, and nvcc needs no GPU.

Loading a library runs its code. So it is loaded only from a folder that nobody else can write, and
only if it is whole: its last bytes are the checksum of those before.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from systems import disk

CPU_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-fno-math-errno",  # without this and the next one, comparisons are not vectorised
    "-fno-trapping-math",
)
CACHE = "TESTBED_CACHE"
"""The variable that names the cache's folder."""


class BuildError(RuntimeError):
    """A compiler refused a source; the text holds its command and message."""


class CacheError(RuntimeError):
    """The cache cannot be used; the text is one line that names the folder and the remedy."""


def find_compiler() -> list[str] | None:
    """The words that start the C++ compiler: those of CXX, else g++ on the path."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    return None if compiler is None else shlex.split(compiler)


def library(source: Path, instead: str, flags: Sequence[str] = ()) -> ctypes.CDLL | None:
    """Build and load the library of a C++ source.

    Args:
        instead: what runs if there is no library, in words.
        flags: more of the compiler's flags, after CPU_FLAGS.

    Returns:
        The library. None, with a warning, if it cannot be built, kept or loaded.
    """
    compiler = find_compiler()
    if compiler is None:
        warn("no g++ here", instead)
        return None
    return loaded(source, [*compiler, *CPU_FLAGS, *flags], instead)


def loaded(source: Path, command: Sequence[str], instead: str) -> ctypes.CDLL | None:
    """Build and load a library with this compiler and these flags; see `library`."""
    try:
        path = build(source, command)
        return ctypes.CDLL(str(path))
    except BuildError as error:
        said = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        first = next((line for line in said if "error" in line), (said or ["no message"])[0])
        warn(f"{command[0]} cannot build {source.name} ({first})", instead)
    except CacheError as error:
        warn(str(error), instead)
    except OSError as error:  # of the loader, such as from a disk that is mounted with noexec
        warn(f"{error}; if it lies on a disk without execution, set {CACHE}", instead)
    return None


def build(source: Path, command: Sequence[str]) -> Path:
    """Compile a source unless the cache has its library; returns the path of the library.

    Several processes may build the same library at once.

    Args:
        source: the file. Other files of its folder may be headers, so that a change of any of them
            makes another library.
        command: the compiler and its flags.

    Raises:
        BuildError: with the compiler's message.
        CacheError: the cache's folder cannot be written, or others can write it.
    """
    folder = cache_folder()
    path = folder / f"{source.stem}-{_key(source, command)}.so"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_others(folder)
        if not _is_whole(path):
            _keep(_compiled(source, command), path)
    except OSError as error:
        raise CacheError(
            f"{disk.reason(error)}: the cache of kernels {folder} cannot be used; set {CACHE} to "
            "another folder"
        ) from None
    return path


def cache_folder() -> Path:
    """The folder in which built libraries are kept.

    Raises:
        CacheError: there is no home folder, and no variable names another.
    """
    if CACHE in os.environ:
        return Path(os.environ[CACHE])
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "systems-testbed"
    except RuntimeError:
        raise CacheError(f"this user has no home folder; set {CACHE} to a folder") from None


def warn(reason: str, instead: str) -> None:
    """Warn in one line that there is no library, why, and what runs instead."""
    warnings.warn(f"{reason}: {instead}", RuntimeWarning, stacklevel=3)


def _refuse_others(path: Path) -> None:
    """Refuse a folder or a library that another user can change: its code would run here."""
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise CacheError(
            f"{path} belongs to another user (number {status.st_uid}), whose kernels are not run; "
            f"set {CACHE} to a folder of your own"
        )
    sticky = (
        stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    )  # as /tmp: to each his own
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        raise CacheError(
            f"{path} can be written by other users, whose kernels are not run; chmod go-w {path}, "
            f"or set {CACHE} to another folder"
        )


def _is_whole(path: Path) -> bool:
    """Whether a file of the cache is there and whole.

    Half a library, as a full disk or a crash leaves it, must not be loaded: it would end the
    process.
    """
    if not path.is_file():
        return False
    _refuse_others(path)
    content = path.read_bytes()
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _compiled(source: Path, command: Sequence[str]) -> bytes:
    """Run the compiler; returns the bytes of the library that it makes."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            built = Path(scratch) / "made.so"
            words = [*command, "-o", str(built), str(source)]
            done = subprocess.run(words, capture_output=True, text=True, errors="replace")
            if done.returncode != 0 or not built.is_file():
                raise BuildError(f"{shlex.join(words)} failed:\n{done.stderr}{done.stdout}")
            return built.read_bytes()
    except OSError as error:
        reason = f"{disk.reason(error)}: give another folder for temporary files in TMPDIR"
        raise BuildError(f"{command[0]} has no folder to work in:\n{reason}") from None


def _keep(content: bytes, path: Path) -> None:
    """Put a library into the cache, whole or not at all.

    Its checksum is appended; the loader does not read that far.
    """
    descriptor, partial = tempfile.mkstemp(suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content + hashlib.sha256(content).digest())
        os.chmod(partial, 0o700)
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            os.unlink(partial)
        raise


def _key(source: Path, command: Sequence[str]) -> str:
    """Compute what distinguishes a library from others of the same source, as 16 hexadecimal
    digits."""
    digest = hashlib.sha256(repr([source.name, *command]).encode())
    for path in sorted(source.parent.iterdir()):
        digest.update(path.read_bytes())
    try:
        version = subprocess.run([command[0], "--version"], capture_output=True)
    except OSError as error:
        raise BuildError(f"{command[0]} does not start:\n{error.strerror}") from None
    digest.update(version.stdout)
    if "-march=native" in command:  # a cache may be shared by machines with other instructions
        digest.update(_processor().encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """Read what this machine's processor can do, as Linux lists it."""
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    )
    named = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), *sorted(set(named))])

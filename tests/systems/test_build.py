"""Libraries are built once, found again, and fail loudly."""

import ctypes
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from systems import build
from tests.mounts import in_mounts, needs_mounts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small source, and an empty cache."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "tiny.cpp").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    return folder / "tiny.cpp"


def test_a_built_library_is_found_again_and_leaves_nothing_else(source: Path) -> None:
    command = ["g++", *build.CPU_FLAGS]
    first = build.build(source, command)
    before = first.stat().st_mtime_ns
    assert build.build(source, command) == first
    assert first.stat().st_mtime_ns == before
    assert list(build.cache_folder().iterdir()) == [first]
    assert ctypes.CDLL(str(first)).answer() == 42


def test_other_flags_and_other_sources_are_other_libraries(source: Path) -> None:
    found = {build.build(source, ["g++", *build.CPU_FLAGS, flag]) for flag in ("-O1", "-O0")}
    (source.parent / "header.h").write_text("// new\n")
    found.add(build.build(source, ["g++", *build.CPU_FLAGS, "-O0"]))
    assert len(found) == 3


def test_a_build_that_fails_is_an_error_with_the_message(source: Path) -> None:
    with pytest.raises(build.BuildError, match=r"g\+\+ .*-fnonsense(.|\n)*unrecognized"):
        build.build(source, ["g++", *build.CPU_FLAGS, "-fnonsense"])
    assert list(build.cache_folder().iterdir()) == []


def test_a_build_that_was_given_up_is_started_again(source: Path) -> None:
    """What a killed process left half written is never loaded."""
    scratch = build.cache_folder() / "tmp-left-behind"
    scratch.mkdir(parents=True)
    (scratch / "made.so").write_bytes(b"half")
    path = build.build(source, ["g++", *build.CPU_FLAGS])
    assert ctypes.CDLL(str(path)).answer() == 42


def _library(source: Path) -> tuple[ctypes.CDLL | None, list[str]]:
    """What is loaded, and the lines that are warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = build.library(source, "operators run")
    return found, [str(warning.message) for warning in caught]


def _answer(source: Path) -> int:
    found, told = _library(source)
    assert found is not None
    assert told == []
    return int(found.answer())


@pytest.mark.parametrize("left", [0, 40, 0.5, -1])
def test_half_a_library_is_built_again(source: Path, left: float) -> None:
    """The loader maps half a library without a word, and the process ends when it is called."""
    command = [*(build.find_compiler() or []), *build.CPU_FLAGS]
    path = build.build(source, command)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole)) if left == 0.5 else int(left)])
    assert _answer(source) == 42
    assert path.read_bytes() == whole
    assert list(build.cache_folder().iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_cache_that_others_can_write_is_not_used(source: Path, mode: int) -> None:
    assert _answer(source) == 42  # in a new folder, which nobody else can write
    build.cache_folder().chmod(mode)
    found, told = _library(source)
    assert found is None
    (line,) = told
    assert f"{build.cache_folder()} can be written by other users" in line
    assert f"chmod go-w {build.cache_folder()}, or set TESTBED_CACHE" in line
    assert line.endswith(": operators run")
    for safe in (0o755, 0o1777):  # what is sticky lets nobody touch what others have there
        build.cache_folder().chmod(safe)
        assert _answer(source) == 42


def test_a_library_that_others_can_write_is_not_used(source: Path) -> None:
    path = build.build(source, [*(build.find_compiler() or []), *build.CPU_FLAGS])
    path.chmod(0o777)
    found, (line,) = _library(source)
    assert found is None
    assert f"{path} can be written by other users" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")
@pytest.mark.parametrize("what", ["folder", "library"])
def test_what_belongs_to_another_user_is_not_run(source: Path, what: str) -> None:
    path = build.build(source, [*(build.find_compiler() or []), *build.CPU_FLAGS])
    theirs = build.cache_folder() if what == "folder" else path
    os.chown(theirs, 12345, -1)
    found, (line,) = _library(source)
    assert found is None
    assert f"{theirs} belongs to another user (number 12345)" in line
    assert "set TESTBED_CACHE to a folder of your own" in line


@pytest.mark.parametrize(
    ("compiler", "told"),
    [
        (
            "/nonexistent/g++",
            r"/nonexistent/g\+\+ cannot build tiny\.cpp \(No such file or directory\)",
        ),
        ("false", r"false cannot build tiny\.cpp \(no message\)"),
        ("true", r"true cannot build tiny\.cpp \(no message\)"),
        ("g++ -fnonsense", r"g\+\+ cannot build tiny\.cpp \(.*error: .*-fnonsense"),
    ],
)
def test_a_compiler_that_fails_is_one_warning(
    source: Path, compiler: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    found, (line,) = _library(source)
    assert found is None
    assert re.search(told, line)
    assert line.endswith(": operators run")
    assert "\n" not in line
    assert list(build.cache_folder().glob("*")) == []


def test_a_cache_that_is_a_file_is_one_warning(source: Path) -> None:
    build.cache_folder().write_text("")
    found, (line,) = _library(source)
    assert found is None
    assert f"the cache of kernels {build.cache_folder()} cannot be used; set TESTBED_CACHE" in line


UNUSABLE = """
import os, pathlib, sys, warnings
from systems import build
source = pathlib.Path(sys.argv[1])
for folder in sys.argv[2:]:
    os.environ["TESTBED_CACHE"] = folder
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = build.library(source, "operators run")
    assert found is None, folder
    (warning,) = caught
    print(warning.message)
    text = str(warning.message)
    assert "TESTBED_CACHE" in text and text.endswith(": operators run"), text
"""


@needs_mounts
def test_a_cache_that_is_read_only_full_or_not_executable_is_one_warning(
    source: Path, tmp_path: Path
) -> None:
    mounts = {tmp_path / "ro": "ro", tmp_path / "noexec": "noexec", tmp_path / "full": "size=8k"}
    for folder in mounts:
        folder.mkdir()
    command = [sys.executable, "-c", UNUSABLE, str(source), *map(str, mounts)]
    done = in_mounts(mounts, command)
    assert done.returncode == 0, done.stderr
    read_only, noexec, full = done.stdout.splitlines()
    assert f"read-only file system: the cache of kernels {tmp_path}/ro cannot be used" in read_only
    assert f"{tmp_path}/noexec/tiny-" in noexec
    assert f"disk full: the cache of kernels {tmp_path}/full cannot be used" in full


@pytest.mark.distributed
def test_processes_that_build_at_once_do_not_meet(source: Path) -> None:
    script = (
        "import ctypes, pathlib; from systems import build;"
        f"path = build.build(pathlib.Path({str(source)!r}), ['g++', *build.CPU_FLAGS]);"
        "print(path, ctypes.CDLL(str(path)).answer())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(list(build.cache_folder().iterdir())) == 1

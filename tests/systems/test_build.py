"""Libraries are built once, found again, and fail loudly."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from systems import build

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

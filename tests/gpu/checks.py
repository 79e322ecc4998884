"""Programs that check: the tests that need a GPU, and CUDA's own checker over the kernels."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

from tests.gpu.parts import Row, Scale

TESTS = (
    "tests/speculative/verification/test_cuda.py",
    "tests/sparsepipe/engine/backends/test_triton_kernels.py",
    "tests/sparsepipe/engine/test_batch_norm.py",
)
NAMES = "gpu or graph"
"""What the names of the tests have that need a GPU."""
EVERY_KERNEL = ("tests.gpu.every_kernel",)
"""The module that runs every kernel, and its arguments."""
LINES = 40
"""The last lines of a program's output that are kept."""


def tests(scale: Scale) -> Iterator[Row]:
    """Run the tests that need a GPU; those of each file by themselves."""
    for path in TESTS:
        yield _run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path, "-k", NAMES]
        )


def sanitizer(scale: Scale) -> Iterator[Row]:
    """Run every kernel of verification under the checkers of memory and of races."""
    program = sanitizer_here()
    if program is None:
        yield {"skipped": "compute-sanitizer is not on the path"}
        return
    for tool in ("memcheck", "racecheck"):
        command = [program, "--tool", tool, "--error-exitcode", "1"]
        yield _run([*command, sys.executable, "-m", *EVERY_KERNEL])


def sanitizer_here() -> str | None:
    """The path of compute-sanitizer, on the path or below CUDA_HOME."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("compute-sanitizer")
    return found or shutil.which("compute-sanitizer", path=f"{home}/bin")


def _run(command: Sequence[str]) -> Row:
    """The exit code and the end of the output of a program."""
    done = subprocess.run(command, capture_output=True, text=True)
    output = (done.stdout + done.stderr).splitlines()
    return {
        "command": " ".join(command[1:]),
        "exit_code": done.returncode,
        "output": output[-LINES:],
    }

"""Do the CUDA kernels compile without spilled registers? Asks nvcc; needs no GPU."""

import re
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from speculative.verification import build
from systems.build import BuildError
from systems.figures.claims import Target, claim
from systems.figures.experiment import Outcome, Results
from systems.runs import record

ARCHITECTURES = {"quick": (90,), "full": (80, 90, 100)}
"""What is compiled for; 90 stands for sm_90. Each takes ten seconds."""


def measure(level: str, folder: Path) -> Results:
    """What ptxas says of every kernel; nothing without nvcc."""
    nvcc = build.find_nvcc()
    results: dict[str, list[Any]] = {}
    for architecture in ARCHITECTURES[level]:
        path = folder / f"sm-{architecture}.json"
        name = f"sm_{architecture}"
        if nvcc is not None:
            find = partial(kernels, nvcc, architecture)
            results[name] = record.once(path, find, told=name)
        elif path.is_file():
            results[name] = record.read_json(path)
    return results


def conclude(results: Results, folder: Path) -> Outcome:
    """A claim per architecture."""
    claims = tuple(
        claim(
            f"speculative.spilled-bytes.{name}.measured",
            f"bytes of registers that {len(rows)} CUDA kernels spill, compiled for {name}",
            [sum(row["spilled_bytes"] for row in rows)],
            Target(most=0, unit="bytes"),
        )
        for name, rows in results.items()
    )
    most = [f"{name}: {max(row['registers'] for row in rows)}" for name, rows in results.items()]
    note = f"Most registers of a thread, {', '.join(most)}." if most else "No nvcc here."
    return Outcome(figures=(), claims=claims, notes=(note,))


def kernels(nvcc: str, architecture: int) -> list[dict[str, int]]:
    """Registers and spilled bytes (stored and loaded) of every kernel.

    Raises:
        BuildError: with the compiler's message.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = [*build.CUDA_FLAGS, *build.target(architecture), "-Xptxas", "-v"]
        command = [nvcc, *flags, str(build.SOURCES / "verify.cu"), "-o", f"{folder}/made.so"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(done.stderr)
    return read(done.stderr)


def read(output: str) -> list[dict[str, int]]:
    """The registers and spilled bytes of every kernel in what `ptxas -v` has printed."""
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", output)
    registers = re.findall(r"Used (\d+) registers", output)
    return [
        {"registers": int(used), "spilled_bytes": int(stored) + int(loaded)}
        for used, (stored, loaded) in zip(registers, spills, strict=True)
    ]

"""Emulated and shaped runs of which a rank, or the command itself, is ended at a random moment.

    python -m tests.kills_emulated 8 --seed 1           # a table; exit code 1 if a run is wrong
    python -m tests.kills_emulated 20 --kinds shaped

The run must end, say who was killed, and leave no process, no network namespace, no interface, and
no control group.
Needs root and iproute2.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from systems.processes import core_shares
from systems.runs.record import read_steps

How = Literal["rank", "forker", "SIGINT", "SIGTERM", "SIGKILL"]
"""A rank or the process that has forked it gets SIGKILL, or `testbed emulate` gets this signal."""
HOWS: tuple[How, ...] = ("rank", "forker", "SIGINT", "SIGTERM", "SIGKILL")
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}
KILLED = ") was killed by SIGKILL"
LAUNCH = [sys.executable, "-m", "launch", "emulate"]
PATIENCE_S = 120
RUNS = {
    "stanza": (3, ["launch/jobs/stanza-vgg16-random.toml", "--stanza.model", "alexnet"]),
    "sparsepipe": (
        2,
        ["launch/jobs/sparsepipe-titan8.toml", "--sparsepipe.devices", "TitanV=1,TitanXp=1"],
    ),
    "shaped": (3, []),
}
"""Ranks and job of every kind of run; it would last for long."""
MANY = 2000


def processes_of(folder: Path) -> list[int]:
    """Processes with a run's folder on their command line, in the order of their ids."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return sorted(found)


def namespaces_of(processes: list[int]) -> set[str]:
    """The network namespaces of processes, but for this one's."""
    found = set()
    for process in processes:
        with suppress(OSError):
            found.add(os.readlink(f"/proc/{process}/ns/net"))
    return found - {os.readlink("/proc/self/ns/net")}


def lasting(command: list[str]) -> set[str]:
    """What a command lists, a line each."""
    return set(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    )


def start(kind: str, folder: Path) -> subprocess.Popen[bytes]:
    """A run of this kind that leaves its record in `folder`, and its output beside it."""
    ranks, job = RUNS[kind]
    flags = ["--world-size", str(ranks), f"--{kind}.steps", str(MANY), "--out", str(folder)]
    command = [*LAUNCH, *job, *flags]
    if kind == "shaped":
        command = [sys.executable, "-m", "tests.shaped", str(folder), str(MANY)]
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def disturb(kind: str, folder: Path, how: How, after_step: int, after_s: float) -> list[str]:
    """End a run `after_s` after a step, or -1: after its start; returns what is wrong then."""
    links = lasting(["ip", "-brief", "link"])
    victim, process = RUNS[kind][0] - 1, start(kind, folder)
    try:
        while after_step >= 0 and len(read_steps(folder, 0)) <= after_step:
            assert process.poll() is None, folder.with_suffix(".log").read_text()
            time.sleep(0.02)
        time.sleep(after_s)
        # `testbed emulate`, `launch ranks` and the ranks that it forks, in this order.
        ours = processes_of(folder)
        theirs = namespaces_of(ours)
        running = len(ours) == 3 + victim
        if how == "rank":
            os.kill(ours[-1], signal.SIGKILL)  # the last one that there is
        elif how == "forker":
            os.kill(ours[min(1, len(ours) - 1)], signal.SIGKILL)
        else:
            process.send_signal(signal.Signals[how])
        process.wait(PATIENCE_S)
    finally:
        process.kill()
    faults = left_of(folder, theirs, links)
    if process.returncode == 0:
        faults.append("it ended well")
    if running and how in CODES and process.returncode != CODES[how]:
        faults.append(f"exit code {process.returncode}")
    lines = folder.with_suffix(".log").read_text().splitlines()
    named = (line.startswith(f"error: rank {victim} (") and KILLED in line for line in lines)
    if running and how == "rank" and not any(named):
        faults.append(f"rank {victim} is not named")
    return faults


def left_of(folder: Path, namespaces: set[str], links: set[str]) -> list[str]:
    """What is left of a run that has ended: the kernel tears down in its own time."""
    faults: list[str] = []
    for _ in range(200):
        everyone = [int(process.name) for process in Path("/proc").glob("[0-9]*")]
        listed = {f"net:[{line.strip()}]" for line in lasting(["lsns", "-nt", "net", "-o", "NS"])}
        left = {
            "processes": processes_of(folder),
            "namespaces": namespaces & (namespaces_of(everyone) | listed),
            "interfaces": lasting(["ip", "-brief", "link"]) - links,
            "control groups": [str(group) for group in core_shares.leftovers()],
        }
        faults = [f"{what} {these} are left" for what, these in left.items() if these]
        if not faults:
            break
        time.sleep(0.1)
    return faults


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(RUNS), choices=list(RUNS))
    given = parser.parse_args()
    chance, wrong = random.Random(given.seed), 0
    folder = Path(tempfile.mkdtemp(prefix="kills-emulated-"))
    print("run  kind        killed   after              seconds  faults")
    for number in range(given.runs):
        kinds = given.kinds
        kind, how = kinds[number % len(kinds)], HOWS[number // len(kinds) % len(HOWS)]
        starting = chance.random() < 0.3
        after_step, after_s = -1 if starting else chance.randrange(10), chance.uniform(0, 0.5)
        after_s += chance.uniform(0, 10) if starting else 0
        began = time.monotonic()
        faults = disturb(kind, folder / f"{kind}-{number}", how, after_step, after_s)
        wrong += bool(faults)
        moment = f"{'start' if starting else f'step {after_step}'} + {after_s:.1f} s"
        print(
            f"{number:3}  {kind:10}  {how:7}  {moment:17}  {time.monotonic() - began:7.0f}  "
            f"{'; '.join(faults) or 'none'}",
            flush=True,
        )
    print(f"records: {folder}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()

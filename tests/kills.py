"""Runs in which a random rank is killed at a random moment, held against runs that nobody disturbs.

    python -m tests.kills 20 --seed 1          # a table, a row a run; exit code 1 if one is wrong

A run must end well under torchrun's restarts, with the parameters of an undisturbed one, every step
in the record once, nothing lost but the steps since the last checkpoint, and no process left.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from systems.runs.checkpoint import read_model
from systems.runs.manifest import FINAL, FOLDER, read_manifest, steps_in
from systems.runs.record import read_steps
from tests.ranks import ranks_of

LAUNCH = [sys.executable, "-m", "launch", "run"]
TOLERANCE = 1e-6
PATIENCE_S = 240
EVERY = 20
DIGITS = ["launch/jobs/stanza-digits.toml", "--stanza.steps", "150"]
SMALL = ["--sparsepipe.steps", "50", "--sparsepipe.width", "0.0625", "--sparsepipe.cuts", "20"]
SMALL += ["--sparsepipe.points", "256", "--sparsepipe.batch-size", "8"]
SMALL += ["--sparsepipe.test-clouds", "12"]
RUNS = {
    "stanza": (3, DIGITS),
    "ps": (3, [*DIGITS, "--stanza.scheme", "ps"]),
    "ddp": (2, [*DIGITS, "--stanza.scheme", "ddp"]),
    "sparsepipe": (2, ["launch/jobs/sparsepipe-shapes.toml", *SMALL]),
}
"""Ranks and job of every kind of run."""
STEPS = {"stanza": 150, "ps": 150, "ddp": 150, "sparsepipe": 50}


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    seconds: float
    killed: bool
    """False: it ended before."""
    at_step: int
    """Steps that rank 0 had done when the rank was killed."""
    saved: int
    """Of these, in a checkpoint."""
    resumed_after: int
    faults: list[str]


def start(kind: str, folder: Path) -> subprocess.Popen[bytes]:
    """A run of this kind that leaves its record in `folder`, and its output beside it."""
    ranks, job = RUNS[kind]
    flags = ["--world-size", str(ranks), "--checkpoint-every", str(EVERY), "--max-restarts", "2"]
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [*LAUNCH, *job, *flags, "--out", str(folder)],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def disturb(
    kind: str, whole: Path, folder: Path, rank: int, after_step: int, after_s: float
) -> Outcome:
    """Kill a rank `after_s` after a step of a run, or -1: after its ranks have started; hold the
    end against `whole`."""
    process, began = start(kind, folder), time.monotonic()
    try:
        while len(ranks_of(folder)) < RUNS[kind][0] and process.poll() is None:
            time.sleep(0.05)
        while len(read_steps(folder, 0)) <= after_step and process.poll() is None:
            time.sleep(0.01)
        time.sleep(after_s)
        victim = ranks_of(folder).get(rank)
        at_step, saved = len(read_steps(folder, 0)), steps_in(folder / FOLDER)
        if victim is not None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(victim, signal.SIGKILL)
        process.wait(PATIENCE_S)
    finally:
        process.kill()
    text = folder.with_suffix(".log").read_text()
    resumed = [int(step) for step in re.findall(r"resuming after step (\d+)", text)]
    last = int(saved[0].name.removeprefix("step-")) if saved else 0
    faults = faults_of(process.returncode, whole, folder)
    if victim is not None and (resumed[0] if resumed else 0) < last:
        faults.append(f"went on from {resumed}, {last} was saved")
    return Outcome(
        seconds=time.monotonic() - began,
        killed=victim is not None,
        at_step=at_step,
        saved=last,
        resumed_after=resumed[0] if resumed else 0,
        faults=faults,
    )


def faults_of(code: int, whole: Path, folder: Path) -> list[str]:
    """What is wrong with the end of a run."""
    if code:
        return [f"exit code {code}: see {folder.with_suffix('.log')}"]
    faults = []
    if (found := difference(whole, folder)) > TOLERANCE:
        faults.append(f"parameters differ by {found:.1e}")
    for path in (whole / "steps").glob("rank-*.jsonl"):
        rank = int(path.stem.removeprefix("rank-"))
        wanted, there = ([s.index for s in read_steps(f, rank)] for f in (whole, folder))
        if wanted != there:
            faults.append(f"rank {rank} has {len(there)} steps, not {len(wanted)} in order")
    if orphans := ranks_of(folder):
        faults.append(f"ranks {sorted(orphans)} are left")
    if left := [p.name for p in (folder / FOLDER).glob("*partial*")]:
        faults.append(f"{left} are left")
    return faults


def difference(whole: Path, folder: Path) -> float:
    """Between the trained parameters of two runs, the largest."""
    one, other = (read_model(path / FOLDER / FINAL) for path in (whole, folder))
    read_manifest(folder / FOLDER / FINAL)
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def moment(kind: str, chance: random.Random) -> tuple[int, int, float]:
    """A rank, and when to kill it: one time in four while ranks start, else at some step, or while
    a checkpoint is made after it."""
    rank = chance.randrange(RUNS[kind][0])
    if chance.random() < 0.25:
        return rank, -1, chance.uniform(0, 15)
    return rank, chance.randrange(STEPS[kind]), chance.uniform(0, 0.1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(RUNS), choices=list(RUNS))
    given = parser.parse_args()
    chance, wrong = random.Random(given.seed), 0
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    for kind in given.kinds[: given.runs]:
        assert start(kind, folder / kind).wait(PATIENCE_S) == 0, folder / kind
    print("run  kind        rank  at step  resumed after  difference  seconds  faults")
    for number in range(given.runs):
        kind = given.kinds[number % len(given.kinds)]
        record = folder / f"{kind}-{number}"
        rank, after_step, after_s = moment(kind, chance)
        outcome = disturb(kind, folder / kind, record, rank, after_step, after_s)
        wrong += bool(outcome.faults)
        at = f"{outcome.at_step}" if outcome.killed else "ended"
        found = float("nan") if outcome.faults else difference(folder / kind, record)
        print(
            f"{number:3}  {kind:10}  {rank:4}  {at:>7}  {outcome.resumed_after:13}  "
            f"{found:10.1e}  {outcome.seconds:7.0f}  {'; '.join(outcome.faults) or 'none'}",
            flush=True,
        )
    print(f"records: {folder}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()

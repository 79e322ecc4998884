"""`testbed reproduce`: run the experiments, draw the figures, judge the claims, write the report.

    testbed reproduce                             # everything, quick level, to reproduction/
    testbed reproduce stanza --level full --out results/full
    testbed reproduce stanza --experiment scale   # one experiment, to reproduction-stanza-scale/

A part of the reproduction goes to a folder of its own, so that repeating one experiment leaves the
report of all of them where it is. A reproduction that was interrupted goes on where it stopped.
Where no cluster can be emulated, the figures have the simulated tier alone.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launch import installed
from launch.reproduction.cases import run_emulated_cases, run_measured_cases, run_shaped_cases
from launch.reproduction.report import Concluded, Section, write_report
from systems import by_path
from systems.figures.claims import Claim
from systems.figures.experiment import Experiment, Level, Results
from systems.figures.paper import Paper
from systems.flags import parse_flags
from systems.gpus import gpu_names
from systems.progress.table import ProgressFlags
from systems.runs import record
from systems.schema import InputError, remedy
from systems.system import System

REPORT = {"claims.json", "claims.jsonl", "claims.csv", "report.md", "report.html"}
PARTS = {"records", "figures", *REPORT}
"""All that a reproduction leaves in its folder."""


@dataclass(frozen=True, kw_only=True)
class ReproduceArguments:
    """Redraw the papers' figures."""

    level: Literal["quick", "full"] = "quick"
    """quick: minutes. full: more repetitions."""
    experiment: str | None = None
    """One experiment alone, by its id. None: all of them."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What all ranks of measured training compute on. Emulated and shaped ranks are on the CPU."""
    out: str | None = None
    """Where everything goes. None: `reproduction`, or for a part `reproduction-SYSTEM-EXPERIMENT`.
    An earlier reproduction there is kept, under a name with its time."""
    quiet: bool = False
    """No progress: results and errors alone."""


def main(arguments: Sequence[str]) -> None:
    """Reproduce one system, or all of them."""
    words = list(arguments)
    system = words.pop(0) if words and not words[0].startswith("-") else None
    if system is not None and system not in installed.names():
        names = " or ".join(installed.names())
        raise InputError(f"reproduce {system}: no such system; give {names}")
    program = f"testbed reproduce [{'|'.join(installed.names())}]"
    flags = parse_flags(ReproduceArguments, words, program, ReproduceArguments())
    if flags.device == "cuda" and not gpu_names():
        raise InputError("--device cuda: torch sees no GPU here; leave it out")
    ProgressFlags(quiet=flags.quiet).apply()
    systems = [installed.system(system)] if system else installed.all_systems()
    experiments = {s.name: experiments_of(s) for s in systems}
    if system is not None and not experiments[system]:
        raise InputError(f"reproduce {system}: this system has no experiments")
    chosen = _choose(experiments, flags.experiment)
    papers = {s.name: _paper_of(s) for s in systems}
    folder = _folder(flags.out, system, flags.experiment)
    _keep_earlier(folder)
    started = time.monotonic()
    sections = [
        Section(name, papers[name], [_conclude(name, e, flags, folder) for e in experiments])
        for name, experiments in chosen.items()
    ]
    report = write_report(folder, sections, flags.level)
    _print_end(folder, report, sections, time.monotonic() - started)


def experiments_of(system: System) -> tuple[Experiment, ...]:
    """The experiments of a system."""
    if not system.experiments:
        return ()
    return tuple(by_path.load(system.experiments, f"system {system.name}: its experiments"))


def _paper_of(system: System) -> Paper | None:
    """The paper that a system implements, if it names one."""
    if not system.paper:
        return None
    paper: Paper = by_path.load(system.paper, f"system {system.name}: its paper")
    return paper


def _choose(
    systems: Mapping[str, Sequence[Experiment]], wanted: str | None
) -> dict[str, list[Experiment]]:
    """Return all experiments of these systems, or only the one that the user wants."""
    known = [experiment.id for experiments in systems.values() for experiment in experiments]
    if wanted is not None and wanted not in known:
        raise InputError(f"--experiment {wanted}: no such experiment; {remedy(wanted, known)}")
    chosen = {
        name: [e for e in experiments if wanted in (None, e.id)]
        for name, experiments in systems.items()
    }
    return {name: experiments for name, experiments in chosen.items() if experiments}


def _folder(out: str | None, system: str | None, experiment: str | None) -> Path:
    """The folder of `--out`, or one that is named after the part that is reproduced."""
    if out is None:
        part = [name for name in (system, experiment) if name is not None]
        return Path("-".join(["reproduction", *part]))
    if not Path(out).name:
        raise InputError(f"--out {out}: give a folder of its own")
    return Path(out)


def _conclude(
    system: str, experiment: Experiment, flags: ReproduceArguments, folder: Path
) -> Concluded:
    """Run an experiment, draw and judge."""
    began = time.monotonic()
    results = _run(experiment, flags, folder / "records" / system / experiment.id)
    outcome = experiment.conclude(results, folder / "figures")
    return Concluded(experiment, outcome, time.monotonic() - began, flags.level)


def _keep_earlier(folder: Path) -> None:
    """Move an earlier reproduction aside; refuse a folder that holds anything else.

    One that was interrupted is gone on with: it has no report yet.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names and names <= PARTS - {"report.html"}:
        print(f"going on with the reproduction in {folder}, which was interrupted")
        return
    if names and names <= PARTS:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(folder.stat().st_mtime))
        earlier = folder.with_name(f"{folder.name}-{stamp}")
        if earlier.exists():
            raise InputError(f"--out {folder}: {earlier} exists already; give another folder")
        folder.rename(earlier)
        print(f"the earlier reproduction is kept in {earlier}")
    record.claim_folder(folder)


def _run(experiment: Experiment, flags: ReproduceArguments, records: Path) -> Results:
    """Run all cases of an experiment, whose records have their own folder; read the results."""
    level: Level = flags.level
    print(f"\n== {experiment.title} (tier {experiment.tier})", flush=True)
    if experiment.measure is not None:
        return experiment.measure(level, records)
    planned = experiment.cases
    if experiment.prepare is not None:
        planned = tuple(experiment.prepare(level, records))
    cases = [case for case in planned if case.level == "quick" or level == "full"]
    if not cases:
        return {}
    if experiment.tier == "emulated":
        return run_emulated_cases(experiment, cases, experiment.repeats[level], records)
    if experiment.tier == "shaped":
        return run_shaped_cases(experiment, cases, experiment.repeats[level], records)
    return run_measured_cases(experiment, cases, experiment.repeats[level], records, flags.device)


def _print_end(folder: Path, report: Path, sections: Sequence[Section], lasted_s: float) -> None:
    claims: list[Claim] = [claim for section in sections for claim in section.claims]
    print(f"\n{'status':7}{'ours':>9} {'unit':9} claim, and its target")
    for claim in claims:
        print(f"{claim.status:7}{claim.ours:>9.4g} {claim.unit:9} {claim.id}: {claim.target}")
    counts = {s: sum(c.status == s for c in claims) for s in ("pass", "near", "off")}
    print("\n" + ", ".join(f"{n} {status}" for status, n in counts.items()))
    for section in sections:
        for figure in (figure for each in section.concluded for figure in each.outcome.figures):
            print(f"figure: {figure.path} ({figure.tier})")
    print(f"claims: {folder / 'claims.csv'}, .jsonl and .json")
    print(f"report: {report} and {report.with_suffix('.md')}\n{lasted_s:.0f} s in all")

"""The object that the testbed finds, and all that needs no torch: plans, simulation, results."""

import dataclasses
from collections.abc import Sequence
from math import ceil
from statistics import mean
from typing import Any

from federated import planning
from federated.clock import Event, play
from federated.coordinator import Coordinator, FederatedPlan
from federated.data import SOURCES, opened as open_data
from federated.options import HALVED, Options, flag
from systems.clusters.sized import link_rates_of
from systems.job import Job
from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.training_line import training_line
from systems.schema import InputError
from systems.system import Emulating, Opened, Planning, Shaping, Simulated, System, Training

WARM = 0.2
"""The share of the steps that are left out of means: at first all clients start together."""
SHOWN = 2000
"""The flights in the trace of a simulation."""


def simulated(job: Job) -> Simulated:
    """Play the clock of a job on its cluster, without training anything."""
    made, options, of = planning.predicted(job), job.options, planning.wire(job)
    ranks = [(i + 0.5) / options.clients for i in range(options.clients)]
    seconds = planning.seconds_of(options, job.seed, ranks if options.speed_follows_data else None)
    coordinator = Coordinator(options, made, job.seed)
    events: list[Event] = []
    for event in play(coordinator, of, seconds):
        events.append(event)
        if coordinator.version == options.steps:
            break
    times_s = [event.time_s for event in events if event.stepped]
    step_s = steady_s(times_s)
    samples = made.goal * options.local_epochs * SOURCES[options.data].train / options.clients
    taken = [e.staleness for e in events if e.outcome == "taken"]
    result = {
        "step_s": step_s,
        "predicted_step_s": made.step_s,
        "samples_per_s": samples / step_s,
        "samples_per_step": samples,
        "updates": len(taken),
        "wasted_updates": len(events) - len(taken),
        "staleness": mean(taken[int(WARM * len(taken)) :]),
        "messages": "timed" if of.clients else f"free: --cluster {job.cluster} states no rates",
    }
    shown = events[:SHOWN]
    spans = [(f"client {e.flight.client}", e.outcome, e.started_s, e.time_s) for e in shown]
    what = f"{options.scheme}, {made.concurrency} clients at once, on {job.cluster}"
    return Simulated(job=job, plan=made, spans=spans, result=result, what=what)


def steady_s(times_s: Sequence[float]) -> float:
    """The mean seconds of a step, of those after the first ones."""
    times_s = [0.0, *times_s]
    warm = int(WARM * (len(times_s) - 1))
    return (times_s[-1] - times_s[warm]) / (len(times_s) - 1 - warm)


def open_part(job: Job, made: FederatedPlan, emulation: Emulation | None) -> Opened:
    """Prepare this rank's part."""
    from federated.training import opened

    return opened(job, made, emulation)


def check(job: Job, made: FederatedPlan) -> None:
    """Look for the data."""
    open_data(job.options)


def summarize(
    job: Job, made: FederatedPlan, ranks: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """The result of a run. Its steps are those of the server, and bytes are those of every rank.

    `clock_s` is the second of each step on the virtual clock, or on the real one where clients are
    processes; an emulated one is that of the cluster that it stands for.
    """
    from systems.runs import window

    dilate = emulation.dilate if emulation is not None else 1.0
    (*server, last), *others = ranks
    steps = [{**step.metrics, "clock_s": step.metrics["clock_s"] / dilate} for step in server]
    samples = round(mean(m["samples"] for m in steps))
    found = window.summarize([[*server, last]], 1, samples, emulation)
    for rank in others[: job.world_size - 1]:
        counted = window.summarize([[*server, rank[-1]]], 1, samples, emulation)
        found["bytes_per_step"] += counted["bytes_per_step"]
    tested = [m for m in steps if "test_accuracy" in m]
    alone, formula_s = job.world_size == 1, planning.closed_form_s(job, made, planning.wire(job))
    return found | {
        "predicted_step_s": made.step_s,
        "clock": "virtual" if alone else "real",
        "clock_step_s": steady_s([m["clock_s"] for m in steps]),
        "closed_form_step_s": formula_s if alone else None,
        "staleness": mean(m["staleness"] for m in steps[int(WARM * len(steps)) :]),
        **{name: steps[-1][name] for name in ("clock_s", "updates", "wasted_updates")},
        "download_bytes": planning.download_bytes(job.options),
        "upload_bytes": planning.upload_bytes(job.options),
        "tests": {n: [m[n] for m in tested] for n in ("updates", "clock_s", "test_accuracy")},
    }


def line(result: dict[str, Any]) -> str:
    """The result of a run in one line."""
    return (
        f"{training_line(result)}, {result['updates']:,.0f} updates "
        f"({result['wasted_updates']:,.0f} more wasted), staleness {result['staleness']:.2f}, "
        f"{result['clock_s']:,.1f} s on the {result['clock']} clock"
    )


def link_rates(job: Job, made: FederatedPlan, emulation: Emulation) -> tuple[float, ...]:
    """The rate of the emulated link of the server and of every client."""
    return link_rates_of(job.cluster, job.world_size, emulation, alike=False)


def kept(job: Job) -> str | None:
    """The flag of a job whose clients keep something from everybody, so that no checkpoint has it,
    and zeros do not stand for it."""
    if job.options.masked:
        return f"--{flag('masked')}"
    return f"--{flag('upload')} {HALVED}" if job.options.upload == HALVED else None


def emulated_plan(job: Job) -> FederatedPlan:
    """The plan of an emulated run, whose clients wait as long as the durations say."""
    made = planning.predicted(job)
    link_rates(job, made, Emulation())
    by_data = f"--{flag('speed_follows_data')}" if job.options.speed_follows_data else None
    if named := kept(job) or by_data:
        said = "clients that wait have no data and no updates; leave it out, or use testbed run"
        raise InputError(f"{named}: {said}")
    return made


def simulated_step_s(job: Job, made: FederatedPlan) -> float:
    """The step time of a job in the simulator, over enough steps for a mean."""
    enough = max(job.options.steps, ceil(SHOWN / made.goal))
    return float(simulated(job.with_options(steps=enough)).result["step_s"])


def with_batch_size(job: Job, samples: int) -> Job:
    """Refuse: what a step's samples are follows from the clients' data."""
    vary = f"--{flag('buffer_size')}, --{flag('concurrency')} or --{flag('batch_size')}"
    said = "the samples of a server step are those of its clients; vary"
    raise InputError(f"--batch-sizes {samples}: {said} {vary}")


def shaping_profile(job: Job, kind: str, timer: Any) -> Any:
    """Measure what a client's training takes on this rank."""
    from federated.training import profile

    return profile(job, kind, timer)


def measured_alike(job: Job) -> Any:
    """What a client's training depends on."""
    fixed = dataclasses.replace(job.options, steps=1, scheme="fedbuff", over_selection=0.0)
    return fixed, job.seed


SYSTEM = System(
    name="federated",
    options=Options,
    open=open_part,
    check=check,
    line=line,
    batch_size=lambda job: None,
    with_batch_size=with_batch_size,
    planning=Planning(
        plan=planning.make_plan,
        plan_type=FederatedPlan,
        roles=lambda job, made: ["server"] + ["client"] * (job.world_size - 1),
    ),
    training=Training(
        summarize=summarize,
        without_checkpoints=kept,
        no_prediction=lambda job: "what a client computes is measured only by --shape",
    ),
    emulating=Emulating(
        plan=emulated_plan, simulated_step_s=simulated_step_s, link_rates=link_rates
    ),
    shaping=Shaping(profiled=measured_alike, profile=shaping_profile, plan=planning.shaped),
    simulate=simulated,
    experiments="federated.experiments:EXPERIMENTS",
    paper="federated.experiments:PAPER",
)

"""The paper's models by every scheme at any scale, planned and then played by the simulator.

The planner chooses f and the micro-batches from its recurrences; the discrete-event simulator plays
the chosen schedule, so the two check each other.
"""

import dataclasses
import functools
from dataclasses import dataclass

from stanza.experiments.targets import AUTO
from stanza.options import Options
from stanza.planner.candidates import costs_at, predict_all
from stanza.planner.plan import as_run, load_profile, plan
from stanza.planner.predict import Prediction
from stanza.planner.simulated import played_plan
from stanza.planner.simulated.steps import Simulated
from systems.clusters.cluster import Cluster


@dataclass(frozen=True)
class Point:
    """One scheme at one scale: throughput, and the planner's step time over the simulator's."""

    samples_per_s: float
    predicted_over_simulated: float


@functools.cache
def point(model: str, scheme: str, target: Cluster) -> Point:
    """Play one scheme; "auto" is the planner's choice, and may be a baseline."""
    options = Options(model=model)
    if scheme == "auto":
        free = dataclasses.replace(options, **AUTO)
        planned = plan(free, target.size, target, load_profile(model)).chosen
        assert planned is not None  # with a cluster and a profile there is always a prediction
    else:
        planned = next(p for p in _predictions(model, target) if p.scheme == scheme)
    played = play(options, planned, target)
    return Point(played.samples_per_s, planned.step_s / played.step_s)


@functools.cache
def _predictions(model: str, target: Cluster) -> tuple[Prediction, ...]:
    """Predict every scheme, with Stanza's default options."""
    return predict_all(Options(model=model), target.size, target, load_profile(model))


def play(options: Options, planned: Prediction, target: Cluster) -> Simulated:
    """Let the simulator play the schedule that a prediction is about."""
    run, layout = as_run(options, planned, target.size)
    at = costs_at(run, load_profile(run.model))
    return played_plan(run, layout, at, target.network)


def at_rate(target: Cluster, gigabits: float) -> Cluster:
    """Return the cluster with links of this many Gb/s, and a name that says so."""
    link = dataclasses.replace(target.slowest_link, bandwidth_bits_per_s=gigabits * 1e9)
    named = dataclasses.replace(target, name=f"{target.name}-at-{gigabits:g}g")
    return named.with_link(link)

"""The paper's models by every scheme at any scale, planned and then played by the simulator.

The planner chooses f and the micro-batches from its recurrences; the discrete-event simulator plays
the chosen schedule, so the two check each other.
"""

import dataclasses
import functools
from dataclasses import dataclass

from stanza import predict, schedule
from stanza.experiments.targets import AUTO
from stanza.options import Options
from stanza.plan import costs_at, load_profile, plan, predict_all
from systems.cluster import Cluster, Link


@dataclass(frozen=True)
class Point:
    """One scheme at one scale: throughput, and the planner's step time over the simulator's."""

    samples_per_s: float
    predicted_over_simulated: float


@functools.cache
def point(model: str, scheme: str, target: Cluster) -> Point:
    """Play one scheme; "auto" is the planner's choice, and may be a baseline."""
    options, profile = Options(model=model), load_profile(model)
    if scheme == "auto":
        free = dataclasses.replace(options, **AUTO)
        planned = plan(free, target.size, target, profile).chosen
        assert planned is not None  # with a cluster and a profile there is always a prediction
        played = play(options, planned, target)
        return Point(played.samples_per_s, planned.step_s / played.step_s)
    predictions = predict_all(options, target.size, target, profile)
    planned = next(p for p in predictions if p.scheme == scheme)
    played = play(options, planned, target)
    return Point(played.samples_per_s, planned.step_s / played.step_s)


def play(options: Options, planned: predict.Prediction, target: Cluster) -> schedule.Simulated:
    at, link, n = costs_at(options, load_profile(options.model)), target.slowest_link, target.size
    if planned.scheme == "stanza":
        conv = n if planned.fc_placement == "colocated" else n - planned.fc_workers
        return schedule.stanza(
            at,
            options.local_batch(conv),
            conv,
            planned.fc_workers,
            planned.micro_batches,
            link,
            fc_parallel=planned.fc_parallel,
            fc_placement=planned.fc_placement,
        )
    cost = at(options.local_batch(n))
    if planned.scheme == "ddp":
        return schedule.ddp(cost, n, link)
    if planned.scheme == "ps-sharded":
        return schedule.ps_sharded(cost, n, link)
    pipelined = planned.scheme == "ps-pipelined"
    return schedule.ps_dedicated(cost, n - 1, 1, link, pipelined=pipelined)


def at_rate(target: Cluster, gigabits: float) -> Cluster:
    """The cluster with other links of this many Gb/s."""
    latency_s = target.slowest_link.latency_s
    return target.with_link(Link(bandwidth_bits_per_s=gigabits * 1e9, latency_s=latency_s))

"""What a job decides before it runs: C and K, bytes of messages, and a predicted step time."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from math import ceil, prod
from statistics import mean
from typing import TYPE_CHECKING

from federated.clock import Wire
from federated.coordinator import FederatedPlan, Flight
from federated.data import CLASSES, SOURCES
from federated.durations import DURATION, FACTOR, SPEEDS, Durations, drawn
from federated.networks import parameter_count, parameter_shapes
from federated.options import DEFAULT_CONCURRENCY, HALVED, Options, flag, wrong
from systems.clusters import cluster
from systems.clusters.cluster import Cluster
from systems.job import Job
from systems.schema import InputError

if TYPE_CHECKING:
    from systems.profiles.profile import ModelProfile

SYNTHETIC_STEPS = 2
"""The batches into which the images of FedSynth are split."""
ALL, NOTHING = slice(None), slice(0, 0)
Halves = Callable[[int], tuple[slice, slice]]
"""Which values travel in the flight of a number, and which its client keeps; see `halves`."""


def make_plan(job: Job, may_measure: bool = False) -> FederatedPlan:
    """C and K of a job, without a prediction: what ranks compute is not known.

    Raises:
        InputError: the options and the job do not go together.
    """
    options: Options = job.options
    ranks = job.world_size - 1
    concurrency = options.concurrency or ranks or DEFAULT_CONCURRENCY
    clients, named = options.clients, f"--{flag('clients')}"
    if ranks and concurrency != ranks:
        said = f"{job.world_size} ranks are a server and {ranks} clients; give 0 or {ranks}, or "
        raise wrong("concurrency", concurrency, f"{said}--world-size 1, which plays any number")
    if concurrency > clients:
        said = f"there are {clients} clients; give as many at most, or a larger {named}"
        raise wrong("concurrency", concurrency, said)
    if clients > (train := SOURCES[options.data].train):
        said = f"{options.data} has {train} samples to train with"
        raise wrong("clients", clients, f"{said}; give as many clients at most")
    if ranks and options.upload == HALVED and (clients != ranks or options.over_selection):
        said = f"clients keep a factor, so that each of the {ranks} ranks must be one; give {named}"
        raise wrong("upload", HALVED, f"{said} {ranks} without over-selection, or --world-size 1")
    if job.transport != "torch":
        raise InputError(f"--transport {job.transport}: updates travel by torch; leave it out")
    goals = {"fedasync": 1, "fedbuff": options.buffer_size}
    in_a_round = max(1, int(concurrency / (1 + options.over_selection) + 1e-9))
    return FederatedPlan(concurrency=concurrency, goal=goals.get(options.scheme, in_a_round))


def durations(options: Options) -> Durations:
    """How long clients train on a virtual clock."""
    return Durations(kind=options.duration, mean_s=options.mean_s, least_s=options.least_s)


def seconds_of(
    options: Options, seed: int, ranks: Sequence[float] | None = None
) -> Callable[[Flight], float]:
    """How many seconds the client of a flight trains.

    Args:
        ranks: by client, the share of the clients that are faster than it; None draws it.
    """
    times = durations(options)

    def seconds(flight: Flight) -> float:
        if ranks is not None:
            return times.quantile_s(ranks[flight.client])
        speed = (SPEEDS, flight.client) if options.steady else (DURATION, flight.number)
        return times.quantile_s(drawn(seed, *speed))

    return seconds


def halves(options: Options, seed: int, number: int) -> tuple[slice, slice]:
    """Which values of the model [P] travel in a flight, down and up, and which its client keeps:
    all and none, or one factor of the adapters and the other, by the draw of the flight."""
    if options.upload != HALVED:
        return ALL, NOTHING
    size, both = adapter_sizes(options)[0], sum(adapter_sizes(options))
    a, b = slice(0, size), slice(size, both)
    return (a, b) if drawn(seed, FACTOR, number) < options.adapter_share else (b, a)


def adapter_sizes(options: Options) -> tuple[int, int]:
    """The values of all A, and of all B."""
    shapes = parameter_shapes(options.model, options.data)
    rows, columns = zip(*(shape for shape in shapes if len(shape) == 2), strict=True)
    return options.upload_rank * sum(columns), options.upload_rank * sum(rows)


def download_bytes(options: Options) -> int:
    """The bytes of the model, in float32; the mean of what travels of adapters."""
    if options.upload == HALVED:
        return upload_bytes(options)
    return 4 * parameter_count(options.model, options.data)


def upload_bytes(options: Options) -> int:
    """The bytes of an update; the mean of the factors of adapters."""
    (size_a, size_b), share = adapter_sizes(options), options.adapter_share
    shapes = parameter_shapes(options.model, options.data)
    count = sum(map(prod, shapes))
    kept = ceil(options.upload_share * count)
    ranks = [low_rank(shape, options.upload_rank) for shape in shapes]
    sizes = {
        "full": 4 * count,
        "fp16": 2 * count,
        "top-k": 8 * kept,
        "random-mask": 4 * kept,
        "sign": 4 * len(shapes) + -(-count // 8),
        "low-rank": 4 * sum((m + n) * r if r else m * n for m, n, r in ranks),
        "synthetic": 4 * (options.synthetic_samples * (prod(SOURCES[options.data].shape) + CLASSES))
        + 4 * synthetic_steps(options),
        HALVED: round(4 * (share * size_a + (1 - share) * size_b)),
    }
    return sizes[options.upload]


def synthetic_steps(options: Options) -> int:
    """The steps in which the images of FedSynth recover an update."""
    return min(SYNTHETIC_STEPS, options.synthetic_samples)


def low_rank(shape: tuple[int, ...], rank: int) -> tuple[int, int, int]:
    """Rows and columns of a parameter as a matrix, and the rank at which it is sent; 0: as it is,
    for it is a vector, or its factors would be no smaller."""
    rows, columns = shape[0], prod(shape[1:])
    pays = len(shape) > 1 and (rows + columns) * rank < rows * columns
    return rows, columns, rank if pays else 0


def wire(job: Job, target: Cluster | None = None) -> Wire:
    """What messages cost on the cluster of a job."""
    options: Options = job.options
    whole = download_bytes(options), upload_bytes(options)

    def sizes(flight: Flight) -> tuple[float, float]:
        shared, _ = halves(options, job.seed, flight.number)
        return (4 * (shared.stop - shared.start),) * 2 if options.upload == HALVED else whole

    return Wire.on(target or cluster.load(job.cluster), sizes)


def closed_form_s(job: Job, plan: FederatedPlan, of: Wire) -> float | None:
    """The mean seconds of a server step, from formulas alone; None where there are none.

    A flight takes its training, a download and an upload. Without rounds C flights give K updates
    in K / C of that time (Little's law). A round takes the K-th of C trainings that begin together.
    Either way, a step is no shorter than its messages on the server's link.
    """
    if not has_formula(job.options):
        return None
    k, c = plan.goal, plan.concurrency
    down, up = download_bytes(job.options), upload_bytes(job.options)
    way_s = [of.way_s(i, down, up) for i in range(max(1, len(of.clients)))]
    down_s, up_s = of.of_server(down), of.of_server(up)
    times = durations(job.options)
    if job.options.in_rounds:
        return max(times.order_statistic_s(k, c) + max(c * down_s + up_s, max(way_s)), c * up_s)
    return k * max((times.mean_s + mean(way_s)) / c, down_s, up_s)


def predicted(job: Job) -> FederatedPlan:
    """The plan of a job whose durations are drawn, with the step time that formulas give."""
    plan = make_plan(job)
    return dataclasses.replace(plan, step_s=closed_form_s(job, plan, wire(job)))


def has_formula(options: Options) -> bool:
    """Whether formulas say how long a step is: they know no clients that die, and nothing of
    updates that are dropped."""
    return not options.lost and options.max_staleness is None


def shaped(job: Job, target: Cluster, profiles: "Mapping[str, ModelProfile]") -> FederatedPlan:
    """The plan of a job on a cluster whose clients were timed.

    Every rank is a client of its own speed: their rates add up. A round waits for the K-th, and
    its models leave the server at once.
    """
    plan, of = make_plan(job), wire(job, target)
    if not has_formula(job.options):
        return plan
    down, up = download_bytes(job.options), upload_bytes(job.options)
    kinds = [node.devices[0].kind for node in target.nodes for _ in range(node.count)]
    flights_s = []
    for client, kind in enumerate(kinds[1:] or kinds):  # one process trains everybody in turn
        (layer,) = profiles[kind].layers
        flights_s.append(layer.backward_s + (of.way_s(client, down, up) if kinds[1:] else 0.0))
    busiest_s = max(of.of_server(down), of.of_server(up))
    step_s = plan.goal * max(1 / sum(1 / s for s in flights_s), busiest_s)
    if job.options.in_rounds and kinds[1:]:
        step_s = sorted(flights_s)[plan.goal - 1] + len(kinds[2:]) * of.of_server(down)
    return dataclasses.replace(plan, step_s=step_s)

"""The candidates that the planner chooses from: every way to run a job, with its prediction.

Stanza as published is predicted by a recurrence (`stanza.planner.recurrence`). There is none for
columns and colocated FC workers, which are played in the simulator instead
(`stanza.planner.simulated`). So is every scheme where all ranks share the cores of one machine, for
no recurrence knows what is busy at once.
"""

from collections.abc import Sequence
from functools import lru_cache

from stanza.layout import Layout, separated_layout
from stanza.options import FcParallel, FcPlacement, Options
from stanza.planner import baselines, recurrence
from stanza.planner.costs import CostsAt, costs_at as profiled_costs
from stanza.planner.predict import Prediction
from stanza.planner.simulated import separation
from stanza.planner.simulated.steps import one_by_one, steps_on
from systems.clusters.cluster import Cluster, Link
from systems.clusters.host import Host
from systems.profiles.profile import ModelProfile

MICRO_BATCHES = (1, 2, 4, 8, 16)
"""The numbers of micro-batches that "auto" chooses from."""
WORTH_IT = 1.005
"""More FC workers or micro-batches are only chosen if they are predicted to be this much faster."""
Mode = tuple[FcParallel, FcPlacement]
"""How FC workers share the FC part, and where they run."""
PUBLISHED_MODE: Mode = ("replicas", "dedicated")
"""The mode of the paper."""
MODES: tuple[Mode, ...] = (
    PUBLISHED_MODE,
    ("replicas", "colocated"),
    ("columns", "dedicated"),
    ("columns", "colocated"),
)
"""All modes."""
KEPT_MODES: tuple[Mode, ...] = (PUBLISHED_MODE, ("columns", "colocated"))
"""The modes to choose from where both options are "auto"."""
WIRE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""The bytes of one value of each dtype in which activations may travel."""


def costs_at(options: Options, profile: ModelProfile) -> CostsAt:
    """The profile's costs at any batch, where activations travel in the options' precision."""
    return profiled_costs(profile, WIRE_BYTES[options.cut_dtype])


def predict_all(
    options: Options, world_size: int, cluster: Cluster, profile: ModelProfile
) -> tuple[Prediction, ...]:
    """Predict the baselines, and then Stanza for every mode that is asked for and every number of
    FC workers that fits, each with its best number of micro-batches."""
    network, at = cluster.network, costs_at(options, profile)
    separated = []
    for mode in modes(options, at):
        for fc_workers in fc_workers_tried(options, world_size, mode):
            layouts = _layouts(options, world_size, mode, fc_workers)
            if layouts:
                separated.append(
                    fastest([_separated(options, at, each, network) for each in layouts])
                )
    return (*baselines.predicted(options, at, world_size, network), *separated)


def modes(options: Options, at: CostsAt) -> list[Mode]:
    """The modes that the options ask for: how FC workers share the FC part, and where they run.

    "auto" leaves columns out where the FC part cannot be split. Where both options are "auto", it
    also leaves out two modes: colocated replicas, and columns on dedicated ranks. In emulation, at
    10 nodes and 10 Gb/s, neither has won.
    """
    both = options.fc_parallel == options.fc_placement == "auto"
    unsplittable = options.fc_parallel == "auto" and not at(1).fc_layers
    return [
        (parallel, placement)
        for parallel, placement in (KEPT_MODES if both else MODES)
        if options.fc_parallel in (parallel, "auto")
        and options.fc_placement in (placement, "auto")
        and not (parallel == "columns" and unsplittable)
    ]


def fc_workers_tried(options: Options, world_size: int, mode: Mode) -> Sequence[int]:
    """The numbers of FC workers to predict in a mode.

    Where a mode is tried because of "auto", colocated columns are spread over all nodes, and
    dedicated columns are at least two, since a single one is a replica.
    """
    parallel, placement = mode
    if placement == "dedicated":
        least = 2 if parallel == "columns" and options.fc_parallel == "auto" else 1
        most = world_size // 2
    else:
        chosen = parallel == "columns" and "auto" in (options.fc_parallel, options.fc_placement)
        least, most = world_size if chosen else 1, world_size
    every = range(least, most + 1)
    if mode == PUBLISHED_MODE or options.fc_workers == "auto":
        return every
    return [f for f in every if f == options.fc_workers]  # a simulation takes its time


def _layouts(options: Options, world_size: int, mode: Mode, fc_workers: int) -> list[Layout]:
    """The layouts to predict in a mode, one for each number of micro-batches that fits."""
    parallel, placement = mode
    conv_workers = world_size if placement == "colocated" else world_size - fc_workers
    smallest_batch = min(options.shares(conv_workers))
    numbers = MICRO_BATCHES if options.micro_batches == "auto" else (options.micro_batches,)
    return [
        separated_layout(
            conv_workers, fc_workers, number, fc_parallel=parallel, fc_placement=placement
        )
        for number in numbers
        if number <= smallest_batch
    ]


def _separated(options: Options, at: CostsAt, layout: Layout, network: Link | Host) -> Prediction:
    """Predict layer separation, by the recurrence if there is one, or else by the simulator."""
    shares = tuple(options.shares(len(layout.ranks("conv"))))
    published = (layout.fc_parallel, layout.fc_placement) == PUBLISHED_MODE
    if published and isinstance(network, Link):
        fc_workers = len(layout.ranks("fc"))
        return recurrence.separated(at, shares, fc_workers, layout.micro_batches, network)
    return _played(at, shares, layout, network)


@lru_cache(maxsize=256)  # jobs that differ in other options ask for the same
def _played(
    at: CostsAt, shares: tuple[int, ...], layout: Layout, network: Link | Host
) -> Prediction:
    """Play layer separation."""
    every, steps = one_by_one(network), steps_on(network)
    played = separation.separated(at, shares, layout, network, every_rank=every, steps=steps)
    return baselines.as_prediction("stanza", layout, played, network)


def fastest(candidates: Sequence[Prediction]) -> Prediction:
    """Return the fastest candidate, or an earlier (simpler) one where the gain is not worth it."""
    best = candidates[0]
    for candidate in candidates[1:]:
        if candidate.samples_per_s > best.samples_per_s * WORTH_IT:
            best = candidate
    return best

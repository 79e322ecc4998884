"""The training loop, which is the same for every scheme and role.

Each rank builds the same model from the same seed, takes the part that belongs to its role, and
yields one `Step` at a time. In the first steps, the warm-up, caches fill. Then all ranks meet at a
barrier, and the measured window begins.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from stanza.exchanges.find import named
from stanza.layout import Layout
from stanza.options import Options
from stanza.train.batches import LocalBatch
from stanza.train.engine import Engine
from stanza.train.evaluation import Evaluation
from stanza.train.recipe import Recipe
from stanza.train.workload import Workload
from stanza.workers.loss import summed
from stanza.workers.optimizers import scheduled
from stanza.workers.targets import rows
from systems.data.batches import consecutive, global_batch, prefetch
from systems.data.dataset import Batch, Indices
from systems.data.pinned import moved
from systems.network import streams
from systems.network.distributed import World
from systems.runs.checkpoint import Checkpoints
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.runs.window import Window


def training_steps(
    options: Options,
    layout: Layout,
    world: World,
    workload: Workload,
    *,
    seed: int,
    transport: str,
    tracer: Tracer,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Step]:
    """Train this rank's part. Yields every step, and then one more with the run's totals.

    The totals are the seconds and the number of steps of the measured window (`window_s`,
    `window_steps`), the bytes per step by the transport's counters and the kernel's, the step from
    which the run was resumed (`resumed_step`, or 0), the number of unreadable images, and on rank 0
    what the last test found and when (`stanza.train.evaluation`). Where the options want tests
    between the steps, the step before a test has what it found.

    Raises:
        InputError: the model cannot be separated, or not in this way.
        TransportError: another rank is gone, or does not answer.
    """
    checkpoints = checkpoints or Checkpoints.off(world)
    segments = list(checkpoints.segments(options.steps))
    torch.manual_seed(seed)
    model = workload.build().to(world.device)
    checkpoints.restore_model(model)
    torch.manual_seed(seed * 1000 + world.rank + 1)  # dropout masks differ between ranks
    first = checkpoints.first_step
    engine = Engine(
        model,
        layout,
        world,
        recipe_of(options, workload, first),
        image_shape=workload.data.image_shape,
        transport=transport,
        tracer=tracer,
    )
    checkpoints.restore(engine.state)
    shares = options.shares(len(layout.data_ranks))
    samples = sum(shares)
    first_batch = checkpoints.first_batch(samples)
    batches = local_batches(workload, layout, world, shares, seed, first_batch)
    warm = options.window_start(first)
    window: Window | None = None
    evaluation = Evaluation(options, engine, workload)
    for begin, end in segments:
        for index in range(begin, end):
            if index == warm:
                window = Window(world, partial(_payload_bytes, engine))
            started = time.perf_counter()
            metrics = engine.step(next(batches))
            streams.settle(world.device)
            metrics = {"step_s": time.perf_counter() - started, **metrics}
            if evaluation.due(index + 1):
                metrics |= evaluation.between_steps(window)
            yield Step(index, metrics)
        samples_seen = (first_batch + end - first) * samples
        checkpoints.save(end, options.steps, engine.state, samples_seen)
    assert window is not None  # at least one step is measured
    totals = window.totals(options.steps - warm)
    totals["resumed_step"] = first
    totals |= evaluation.at_the_end()
    totals["corrupt_images"] = len(workload.data.corrupt)
    yield Step(options.steps, totals)
    engine.close()


def recipe_of(options: Options, workload: Workload, steps_done: int) -> Recipe:
    """Translate the options into how the workload is trained, after so many steps of its
    schedule."""
    return Recipe(
        optimizer=scheduled(workload.optimizer, workload.scheduler, steps_done),
        loss_sum=summed(workload.loss),
        cut_dtype=getattr(torch, options.cut_dtype),
        ps_pipelined=options.ps_mode == "pipelined",
        ps_consistency=options.ps_consistency,
        ps_staleness=options.ps_staleness,
        exchange=named(options.exchange, options.exchange_options),
        message_scale=workload.message_scale,
    )


def local_batches(
    workload: Workload,
    layout: Layout,
    world: World,
    shares: Sequence[int],
    seed: int,
    first_batch: int,
) -> Iterator[LocalBatch]:
    """Yield this rank's part of every step's global batch, without end.

    `shares` says how many samples each rank with data takes, in the order of the data. On ranks
    with data a background thread reads ahead. Labels travel as int32 where the loss is the cross
    entropy, and targets as they are where it is another.
    """
    ranks, samples = layout.data_ranks, sum(shares)
    of_rank = dict(zip(ranks, consecutive(shares), strict=True))
    none = slice(0, 0)
    parts = [of_rank.get(rank, none) for rank in range(world.world_size)]
    sizes = [part.stop - part.start for part in parts]
    length = len(workload.data.train)
    indices: Iterator[Indices] = (
        global_batch(samples, length, seed=seed, step=step)[parts[world.rank]]
        for step in itertools.count(first_batch)
    )
    batches: Iterator[Batch] = (
        prefetch(workload.data.train, indices, device=world.device)
        if world.rank in ranks
        else itertools.repeat(_no_samples(workload))
    )
    for images, targets in batches:
        if workload.loss is None:
            targets = targets.to(torch.int32)
        images, targets = moved((images, targets), world.device)
        yield LocalBatch(images, targets, sizes)


def _no_samples(workload: Workload) -> Batch:
    """A batch of no samples, whose tensors have the shapes and dtypes of the others."""
    if workload.loss is None:
        return torch.empty(0, *workload.data.image_shape), torch.empty(0, dtype=torch.int64)
    images, targets = workload.data.train.batch([0])
    return images[:0], rows(targets, slice(0))


def _payload_bytes(engine: Engine) -> tuple[int, int]:
    """The bytes that the transport has sent and received so far."""
    return sum(engine.transport.sent_bytes), sum(engine.transport.received_bytes)

"""What a Stanza run amounts to: throughput, step time, loss curve, accuracy, bytes."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from stanza.layout import Layout
from stanza.options import Options
from stanza.planner.plan import Plan
from stanza.planner.traffic import sizes_of, traffic
from stanza.train.batches import share
from systems.measure import Spread, spread
from systems.profiles.emulation import Emulation
from systems.runs.record import Step

COUNTERS = ("payload_sent", "payload_received", "tcp_sent", "tcp_received")


def summarize(
    options: Options,
    plan: Plan,
    ranks: Sequence[Sequence[Step]],
    emulation: Emulation,
) -> dict[str, Any]:
    """The summary of one run from every rank's steps, the last of which holds its totals.

    After the world's own ranks may come earlier ones, from before a checkpoint that it went on
    from: losses are of all steps, times and bytes of those since then.

    Keys carry their units; what the emulation has scaled and dilated is undone. `bytes_per_step`
    has the traffic table's and the counters' figures for every rank; counters that do not exist
    here (TCP off Linux) are None.
    """
    layout = plan.layout
    totals = ranks[0][-1].metrics
    here = ranks[: len(layout.roles)]
    samples = options.samples_per_step(len(layout.data_ranks))
    window_s = totals["window_s"] / emulation.dilate
    return {
        "scheme": layout.scheme,
        "samples_per_s": samples * totals["window_steps"] / window_s,
        "step_s": dataclasses.asdict(_step_s(here, int(totals["window_steps"]), emulation)),
        "predicted_step_s": plan.chosen.step_s if plan.chosen else None,
        "samples_per_step": samples,
        "resumed_step": int(totals.get("resumed_step", 0)),
        "loss": _losses(ranks),
        "test_accuracy": totals.get("test_accuracy"),
        # A file that several ranks came upon counts for each of them.
        "corrupt_images": int(sum(steps[-1].metrics.get("corrupt_images", 0) for steps in here)),
        "bytes_per_step": _bytes_per_step(options, layout, here, emulation.scale),
    }


def _step_s(ranks: Sequence[Sequence[Step]], steps: int, emulation: Emulation) -> Spread:
    """Seconds of a step on the rank that takes longest: the others run ahead of it at times."""
    spreads = [
        spread([step.metrics["step_s"] / emulation.dilate for step in rank[-1 - steps : -1]])
        for rank in ranks
    ]
    return max(spreads, key=lambda each: each.median)


def _losses(ranks: Sequence[Sequence[Step]]) -> list[float]:
    """Mean training loss of every step that rank 0 did, over the samples of all ranks."""
    sums, samples = defaultdict[int, float](float), defaultdict[int, float](float)
    for step in itertools.chain(*ranks):
        sums[step.index] += step.metrics.get("loss_sum", 0.0)
        samples[step.index] += step.metrics.get("samples", 0)
    return [sums[step.index] / samples[step.index] for step in ranks[0][:-1]]


def _bytes_per_step(
    options: Options, layout: Layout, ranks: Sequence[Sequence[Step]], scale: float
) -> list[dict[str, float | str | None]]:
    resolved = dataclasses.replace(options, scheme=layout.scheme, fc_parallel=layout.fc_parallel)
    workers = len(layout.data_ranks)
    parts = [share(options.samples_per_step(workers), workers, i) for i in range(workers)]
    table = traffic(layout, sizes_of(resolved), [part.stop - part.start for part in parts])
    rows: list[dict[str, float | str | None]] = []
    for rank, (role, expected) in enumerate(zip(layout.roles, table, strict=True)):
        totals = ranks[rank][-1].metrics
        raw = {name: totals.get(f"{name}_bytes_per_step") for name in COUNTERS}
        counted = {name: None if value is None else value * scale for name, value in raw.items()}
        rows.append(
            {
                "role": role,
                "table_sent": expected.sent,
                "table_received": expected.received,
                **counted,
            }
        )
    return rows

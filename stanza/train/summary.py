"""Summarizes a run from its steps: throughput, step time, losses, accuracy and bytes."""

import dataclasses
from collections.abc import Sequence
from statistics import mean
from typing import Any

from stanza.exchanges.names import PLAIN
from stanza.layout import Layout
from stanza.options import Options
from stanza.planner.plan import Plan
from stanza.planner.traffic import sizes_of, traffic
from stanza.train.data import input_of
from stanza.workers.parameter_server import STALENESS
from systems.profiles.emulation import Emulation
from systems.runs import window
from systems.runs.record import Step

NOT_CLASSIFIED = "not_classified"
"""The total, on rank 0, of a run whose outputs or targets are no classes."""
NO_ACCURACY = "the outputs are no logits [samples, classes], or the targets no classes"


def summarize_training(
    options: Options, plan: Plan, ranks: Sequence[Sequence[Step]], emulation: Emulation
) -> dict[str, Any]:
    """Summarize a run.

    The names of the results carry their units. Bytes and seconds are those of the cluster that an
    emulation stands for. `bytes_per_step` has for every rank the bytes of the traffic table and
    those that were counted. A counter that does not exist here (that of TCP off Linux) is None, and
    so is the table of an exchange whose bytes nobody knows. `staleness_updates` is there where
    parameter servers may be stale: how many updates the parameters lacked on which a gradient was
    computed, over all pushes of the run.

    Args:
        ranks: every rank's steps; see `systems.runs.window.summarize`.
    """
    layout = plan.layout
    totals = ranks[0][-1].metrics
    here = ranks[: len(layout.roles)]
    samples = options.samples_per_step(len(layout.data_ranks))
    summary = window.summarize(ranks, len(layout.roles), samples, emulation)
    staleness = [step.metrics[STALENESS] for of in here for step in of if STALENESS in step.metrics]
    return {
        "scheme": layout.scheme,
        **summary,
        **({"exchange": options.exchange} if options.exchange != PLAIN else {}),
        **({"staleness_updates": _mean_and_largest(staleness)} if staleness else {}),
        "predicted_step_s": plan.chosen.step_s if plan.chosen else None,
        "test_accuracy": totals.get("test_accuracy"),
        **({"tests": tests} if (tests := _tests(ranks[0])) else {}),
        **({"no_test_accuracy": NO_ACCURACY} if NOT_CLASSIFIED in totals else {}),
        # A file that several ranks have tried to read counts once for each.
        "corrupt_images": int(sum(steps[-1].metrics.get("corrupt_images", 0) for steps in here)),
        "bytes_per_step": _bytes_per_step(options, layout, summary["bytes_per_step"]),
    }


def _tests(steps: Sequence[Step]) -> list[dict[str, float]]:
    """List the tests of rank 0. Each has the number of steps before it, the seconds that they took
    since the first step of this attempt, without the tests between them, and the accuracy."""
    last = steps[-1]
    return [
        {
            "steps": step.index + (step is not last),
            "trained_s": step.metrics["trained_s"],
            "test_accuracy": step.metrics["test_accuracy"],
        }
        for step in steps
        if "test_accuracy" in step.metrics and "trained_s" in step.metrics
    ]


def _bytes_per_step(
    options: Options, layout: Layout, counted: Sequence[dict[str, float | None]]
) -> list[dict[str, float | str | None]]:
    """A row for each rank: its role, its bytes by the traffic table, and those counted."""
    resolved = dataclasses.replace(options, scheme=layout.scheme, fc_parallel=layout.fc_parallel)
    workers = len(layout.data_ranks)
    sizes = sizes_of(resolved, *input_of(options))
    if sizes.compression is None:
        unknown = {"table_sent": None, "table_received": None}
        return [
            {"role": role, **unknown, **of_rank}
            for role, of_rank in zip(layout.roles, counted, strict=True)
        ]
    table = traffic(layout, sizes, options.shares(workers))
    return [
        {"role": role, "table_sent": by.sent, "table_received": by.received, **of_rank}
        for role, by, of_rank in zip(layout.roles, table, counted, strict=True)
    ]


def _mean_and_largest(values: Sequence[float]) -> dict[str, float]:
    """The mean and the largest of some values."""
    return {"mean": mean(values), "largest": max(values)}

"""Learning up to a target accuracy, on the virtual clock: what experiments measure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from federated.coordinator import Flight
from federated.learning import Parts, learn, make_parts
from federated.options import Options
from federated.planning import seconds_of, upload_bytes, wire
from federated.system import SYSTEM
from systems.job import Job

TOGETHER = 3
"""The target is reached when the mean of so many tests in a row is."""
COUNTED = ("updates", "uploaded_bytes", "downloaded_bytes", "clock_s")
TUNING_SEED = 1000


def reach(
    options: Options, seed: int, target: float, most_updates: int, every: int
) -> dict[str, Any]:
    """Learn until the test accuracy is `target`, or so many updates were taken.

    Args:
        every: the model is tested after the first step by which so many more updates were taken.

    Returns:
        `reached`, and when it was, or else the learning ended: `updates` that were taken, all
        `uploaded_bytes` and `downloaded_bytes`, server `steps`, `clock_s`; the tests; and
        `by_speed`, see `_by_speed`.
    """
    job = SYSTEM.job(options, world_size=1, seed=seed)
    parts = make_parts(job)
    tested, found, reached = list[float](), list[float](), False
    for metrics in learn(job, parts, wire(job)):
        ended = metrics["updates"] >= most_updates
        if metrics["updates"] < every * (len(tested) + 1) and not ended:
            continue
        tested.append(metrics["updates"])
        found.append(parts.accuracy() or 0.0)
        reached = sum(found[-TOGETHER:]) >= TOGETHER * target
        if reached or ended:
            break
    return {
        "reached": reached,
        **{name: metrics[name] for name in COUNTED},
        "upload_bytes": upload_bytes(options),
        "steps": parts.learner.coordinator.version,
        "tested_updates": tested,
        "accuracies": found,
        "by_speed": _by_speed(job, parts) if options.steady else [],
    }


def _by_speed(job: Job, parts: Parts) -> list[float]:
    """The accuracy on the samples of each quarter of the clients, the fastest first."""
    seconds = seconds_of(job.options, job.seed, parts.speed_ranks)
    times_s = [seconds(Flight(0, client, 0)) for client in range(job.options.clients)]
    network, found = parts.model(), []
    for clients in np.array_split(np.argsort(times_s), 4):
        images, labels = zip(*(parts.trainer.own(int(client)) for client in clients), strict=True)
        with torch.no_grad():
            right = network(torch.cat(images)).argmax(1) == torch.cat(labels)
        found.append(right.float().mean().item())
    return found


def reached_by_all(
    options: Options, rates: Iterable[float], seeds: Sequence[int], limits: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Reach a target with each of some seeds, at the server's learning rate that is best with
    another seed: it reaches the target with the fewest updates, or comes nearest to it.

    Args:
        rates: the learning rates to try.
        limits: see `reach`.
    """

    def tried(rate: float, seed: int) -> dict[str, Any]:
        return reach(replace(options, server_learning_rate=rate), seed, **limits)

    def rank(rate: float) -> tuple[bool, float, float]:
        found = tried(rate, TUNING_SEED)
        return not found["reached"], found["updates"], -max(found["accuracies"])

    best = min(rates, key=rank)
    return [{**tried(best, seed), "server_learning_rate": best} for seed in seeds]

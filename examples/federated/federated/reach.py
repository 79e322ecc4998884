"""Learning up to a target accuracy, on the virtual clock: what experiments measure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from federated.clock import durations_of
from federated.coordinator import Flight
from federated.learning import Parts, learn, make_parts
from federated.options import Options
from federated.planning import make_plan, upload_bytes, wire
from federated.training import in_memory
from systems.data.accuracy import accuracy
from systems.job import Job

TOGETHER = 3
"""The target is reached when the mean of so many tests in a row is."""
TUNING_SEED = 1000
CPU = torch.device("cpu")


def reach(job: Job, target: float, most_updates: int, every: int) -> dict[str, Any]:
    """Learn until the test accuracy is `target`, or so many updates were taken.

    Args:
        every: the model is tested after the first step by which so many more updates were taken.

    Returns:
        `reached`, and when it was, or else the learning ended: `updates` that were taken, all
        `uploads`, server `steps`, `clock_s`; the tests; and `by_speed`, see `_by_speed`.
    """
    parts = make_parts(job, make_plan(job), CPU)
    learner, test = parts.learner, in_memory(parts.data.test)
    tested, found, reached = list[float](), list[float](), False
    for metrics in learn(job, parts, wire(job)):
        ended = metrics["updates"] >= most_updates
        if metrics["updates"] < every * (len(tested) + 1) and not ended:
            continue
        network = parts.trainer.flat.load(learner.server.snapshot())
        tested.append(metrics["updates"])
        found.append(accuracy(network, test, CPU, batch_size=2048) or 0.0)
        reached = sum(found[-TOGETHER:]) >= TOGETHER * target
        if reached or ended:
            break
    outcomes = learner.coordinator.outcomes
    return {
        "reached": reached,
        "updates": metrics["updates"],
        "uploads": metrics["updates"] + outcomes["late"] + outcomes["stale"],
        "upload_bytes": upload_bytes(job.options),
        "steps": learner.coordinator.version,
        "clock_s": metrics["clock_s"],
        "tested_updates": tested,
        "accuracies": found,
        "by_speed": _by_speed(job, parts) if job.options.steady else [],
    }


def _by_speed(job: Job, parts: Parts) -> list[float]:
    """The accuracy on the samples of each quarter of the clients, the fastest first."""
    seconds = durations_of(parts.durations, job.seed, ranks=parts.speed_ranks, steady=True)
    times_s = [seconds(Flight(0, client, 0)) for client in range(job.options.clients)]
    network, found = parts.trainer.flat.load(parts.learner.server.snapshot()), []
    for clients in np.array_split(np.argsort(times_s), 4):
        images, labels = zip(*(parts.trainer.own(int(client)) for client in clients), strict=True)
        with torch.no_grad():
            right = network(torch.cat(images)).argmax(1) == torch.cat(labels)
        found.append(right.float().mean().item())
    return found


def reached_by_all(
    options: Options,
    job_of: Callable[[Options, int], Job],
    rates: Iterable[float],
    seeds: Sequence[int],
    limits: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Reach a target with each of some seeds, at the server's learning rate that is best with
    another seed: it reaches the target with the fewest updates, or comes nearest to it.

    Args:
        job_of: makes a job of options and a seed.
        rates: the learning rates to try.
        limits: see `reach`.
    """

    def tried(rate: float, seed: int) -> dict[str, Any]:
        return reach(job_of(replace(options, server_learning_rate=rate), seed), **limits)

    def rank(rate: float) -> tuple[bool, float, float]:
        found = tried(rate, TUNING_SEED)
        return not found["reached"], found["updates"], -max(found["accuracies"])

    best = min(rates, key=rank)
    return [{**tried(best, seed), "server_learning_rate": best} for seed in seeds]

"""The iteration of a pipelined, replicated job in closed form.

[Note: the closed form]
The first micro-batch goes forward and back through all p stages and messages. After it, the slowest
part of the pipeline finishes one more in every cycle. With equal stages of t seconds for both
passes and no messages that is

    p t + (m - 1) t = (m + p - 1) t.

The cycle of a stage is what it must do for a micro-batch one after the other: both passes, and the
round trip to the stage before it, which sends the next activations only when it has got the
gradients of an earlier micro-batch. Where its own messages to the stage behind are too long to be
eager, it waits for these as well. Then all stages wait for each other, sum their gradients over
the replicas, and update.

What the closed form leaves out: messages of several replicas at one interface at the same time.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from systems.fair_links import Resource
from systems.validation.times import StageTimes


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """What an iteration takes."""

    seconds: float
    """From one update of the weights to the next."""
    reduction_s: float
    """In which the first stage sums its gradients over its replicas."""


def predict(stages: Sequence[StageTimes], micro_batches: int) -> Iteration:
    """Predict the iteration in closed form; see [Note: the closed form]."""
    replicas = range(len(stages[0].forward_s))
    pipeline_s = max(_chain_s(stages, replica, micro_batches) for replica in replicas)
    reductions = _reductions_s(stages)
    ends = [reduced + max(one.update_s) for one, reduced in zip(stages, reductions, strict=True)]
    return Iteration(seconds=pipeline_s + max(ends), reduction_s=reductions[0])


def _chain_s(stages: Sequence[StageTimes], replica: int, micro_batches: int) -> float:
    """Compute the seconds in which one chain of replicas computes all of its micro-batches."""
    passes = [one.forward_s[replica] + one.backward_s[replica] for one in stages]
    trips = [
        one.activations[replica].seconds + one.gradients[replica].seconds for one in stages[:-1]
    ]
    waits = [
        sum(m.seconds for m in (one.activations[replica], one.gradients[replica]) if not m.eager)
        for one in stages[:-1]
    ]
    cycles = [
        own + before + behind
        for own, before, behind in zip(passes, [0.0, *trips], [*waits, 0.0], strict=True)
    ]
    return sum(passes) + sum(trips) + (micro_batches - 1) * max(cycles)


def _reductions_s(stages: Sequence[StageTimes]) -> list[float]:
    """Compute the seconds of every stage's reduction; those at one interface follow one another."""
    busy_s: defaultdict[Resource, float] = defaultdict(float)
    for one in stages:
        for interface, load_s in one.ring_loads_s.items():
            busy_s[interface] += load_s
    return [
        max(one.bucket_s)
        + max((busy_s[interface] for interface in one.ring_loads_s), default=0.0)
        + one.ring_s
        for one in stages
    ]

"""A pipeline's stand-ins for an emulated cluster: stages that wait as a profile says.

The schedule, transfers, all-reduces and the runtime around them are those of a real run; values are
plain tensors of zeros, of the sizes that would cross. See systems.profiles.emulated for what a
layer does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.pipeline.run import run as run_pipeline
from sparsepipe.pipeline.values import Value, data
from sparsepipe.schedule.lists import PARTS
from sparsepipe.train import infer
from sparsepipe.train.planned import Planned, described
from sparsepipe.train.summary import step_times, utilisation
from systems import schema
from systems.measure import spread
from systems.network.distributed import World
from systems.profiles.emulated import (
    EmulatedDevice,
    EmulatedOptimizer,
    emulated_layers,
    joined,
    scaled,
)
from systems.profiles.emulation import Emulation
from systems.profiles.profile import ModelProfile
from systems.runs.record import Step
from systems.runs.trace import Tracer


class EmulatedStage(nn.Module):
    """[b, in] to [b, out], scaled: what crosses a cut is one tensor."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, value: Tensor) -> tuple[Tensor]:
        """Wait for all layers."""
        return (self.layers(value),)


def emulated_stages(
    profile: ModelProfile,
    bounds: Sequence[tuple[int, int]],
    cut_bytes: Sequence[float],
    emulation: Emulation,
) -> list[nn.Module]:
    """All stages on one device, which runs one at a time.

    Layers with few parameters join the one before them: thousands of short waits would cost more
    than they stand for. Between the layers of a stage nothing is sent, so nothing has a size.

    Args:
        profile: of this rank's device, at the mini-batch's size.
        bounds: (first, end) of every stage.
        cut_bytes: [layers + 1], what crosses a cut before each layer, for the mini-batch.
    """
    device, stages = EmulatedDevice(), list[nn.Module]()
    for first, end in bounds:
        own = profile.layers[first:end]
        layers = joined(own, sum(layer.parameter_bytes for layer in own) / (2 * PARTS))
        layers = [replace(layer, activation_bytes=0) for layer in layers]
        layers[-1] = replace(layers[-1], activation_bytes=round(cut_bytes[end]))
        chain = emulated_layers(
            layers,
            profile.batch_size,
            in_features=scaled(cut_bytes[first] / profile.batch_size, emulation),
            emulation=emulation,
            device=device,
        )
        stages.append(EmulatedStage(chain))
    return stages


class EmulatedBatches:
    """Mini-batches of samples that are a single zero each, all of one size."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size

    def voxels(self, mini_batch: int) -> list[int]:
        """One for each sample."""
        return [1] * self._batch_size

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """[b, 1]."""
        return (torch.zeros(len(samples), 1),)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """[b]."""
        return torch.zeros(len(samples))

    def count(self, mini_batch: int) -> int:
        """The number of samples."""
        return self._batch_size


def emulated_loss(output: Value, targets: Tensor) -> Tensor:
    """Something whose backward pass takes no time."""
    return data(output)[:, 0].sum()


def run(
    planned: Planned, steady: int, world: World, emulation: Emulation, tracer: Tracer
) -> Iterator[Step]:
    """This rank's part of a plan, with so many mini-batches in the steady state."""
    modules = emulated_stages(
        planned.of_rank[world.rank], planned.bounds, planned.cut_bytes, emulation
    )
    yield from run_pipeline(
        planned.schedule(steady),
        modules,
        planned.shares,
        world,
        batches=EmulatedBatches(planned.plan.batch_size),
        loss_sum=emulated_loss,
        optimizer=EmulatedOptimizer if planned.mode == "train" else None,
        tracer=tracer,
    )


def summarize(
    planned: Planned, steady: int, everyone: list[list[Step]], emulation: Emulation
) -> dict[str, Any]:
    """The steady state of all ranks' steps, undilated, beside what the planner predicted.

    `step_s` is the spread of single steps, `mean_step_s` their mean, which throughput is counted
    by: asynchronous mini-batches may end in pairs. By rank: `compute_s` in a step,
    `predicted_compute_s` (0 of an idle rank), `utilisation`.
    """
    if planned.mode == "infer":
        found = infer.summarize(planned.schedule(steady), everyone, emulation.dilate)
        return {**described(planned), **found}
    schedule, edge = planned.schedule(steady), planned.warm_up
    seconds = [s / emulation.dilate for s in step_times(schedule, everyone, edge)]
    mean_s = sum(seconds) / len(seconds)
    window = range(edge, schedule.mini_batches - edge)
    return {
        **described(planned),
        "step_s": schema.dump(spread(seconds)),
        "mean_step_s": mean_s,
        "samples_per_s": planned.plan.batch_size / mean_s,
        "utilisation": utilisation(everyone, window),
        "compute_s": [
            sum(steps[m].metrics["compute_s"] for m in window) / len(window) / emulation.dilate
            if steps
            else 0.0
            for steps in everyone
        ],
    }

"""A pipeline on an emulated cluster: stages that wait for as long as a profile says.

The schedule, the transfers, the all-reduces and the runtime around them are those of a real run.
Values are plain tensors of zeros of the sizes that would cross. `systems.profiles.emulated`
explains what a layer does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.runtime.run import run_pipeline
from sparsepipe.runtime.values import Value, features_of
from sparsepipe.schedule.lists import ALL_REDUCE_PARTS
from sparsepipe.train.infer import summarize_inference
from sparsepipe.train.planned import ProfiledPlan, describe_plan
from sparsepipe.train.summary import steady_state
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
    """A stage that waits, and turns a tensor [b, in] into a tuple of one tensor [b, out]."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, value: Tensor) -> tuple[Tensor]:
        """Wait for as long as all layers take."""
        return (self.layers(value),)


def emulated_stages(
    profile: ModelProfile,
    bounds: Sequence[tuple[int, int]],
    cut_bytes: Sequence[float],
    emulation: Emulation,
) -> list[nn.Module]:
    """Make stand-ins for all stages on one device, which runs one of them at a time.

    Layers with few parameters are joined to the one before them: thousands of short waits would
    cost more than they stand for. Nothing is sent between the layers of a stage, so only its output
    has a size.

    Args:
        profile: the profile of this rank's device, at the size of the mini-batch.
        bounds: (first, end) of each stage: it has the layers first, ..., end - 1.
        cut_bytes: [layers + 1] what crosses a cut before each layer, for the mini-batch.
        emulation: how times and sizes are scaled.
    """
    device, stages = EmulatedDevice(), list[nn.Module]()
    for first, end in bounds:
        own = profile.layers[first:end]
        layers = joined(own, sum(layer.parameter_bytes for layer in own) / (2 * ALL_REDUCE_PARTS))
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
    """Mini-batches of `batch_size` samples, each a single zero and counted as one voxel."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size

    def voxels(self, mini_batch: int) -> list[int]:
        """The voxels of each sample: one."""
        return [1] * self._batch_size

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """Make inputs of zeros [b, 1]."""
        return (torch.zeros(len(samples), 1),)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """Make targets of zeros [b]."""
        return torch.zeros(len(samples))

    def count(self, mini_batch: int) -> int:
        """The number of samples."""
        return self._batch_size


def emulated_loss(output: Value, targets: Tensor) -> Tensor:
    """A loss whose backward pass takes no time."""
    return features_of(output)[:, 0].sum()


def emulate_pipeline(
    planned: ProfiledPlan, steady: int, world: World, emulation: Emulation, tracer: Tracer
) -> Iterator[Step]:
    """Emulate this rank's part of a plan; yields a step for every mini-batch.

    `steady` is the number of mini-batches in the steady state.
    """
    modules = emulated_stages(
        planned.profile_of_rank[world.rank], planned.bounds, planned.cut_bytes, emulation
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


def summarize_emulation(
    planned: ProfiledPlan, steady: int, everyone: list[list[Step]], emulation: Emulation
) -> dict[str, Any]:
    """The result of a run from the steps of all ranks, beside what the planner predicted.

    Times are those of the emulated cluster. `step_s` is the spread of single steps, `mean_step_s`
    their mean, from which the throughput is computed: asynchronous mini-batches may end in pairs.
    For each rank there are `compute_s` in a step, `predicted_compute_s` and `utilisation`, 0 where
    it is idle.
    """
    if planned.mode == "infer":
        measured = summarize_inference(planned.schedule(steady), everyone, emulation.dilate)
        return {**describe_plan(planned), **measured}
    times = steady_state(planned.schedule(steady), everyone, planned.warm_up, emulation.dilate)
    computed_s = (
        [steps[m].metrics["compute_s"] / emulation.dilate for m in times.window] if steps else [0.0]
        for steps in everyone
    )
    compute_s = [mean(seconds) for seconds in computed_s]
    return {**describe_plan(planned), **times.summary(), "compute_s": compute_s}

"""The peak memory of a GPU in a pipelined job with Adam in 32 bits.

A GPU holds, for every parameter, the weight, its gradient, two moments of Adam, and a place in the
bucket in which gradients are reduced: five numbers of 4 bytes. For every micro-batch in flight it
holds what the layers keep from their forward to their backward pass; in 1F1B at most p - s of them
are in flight at stage s of p. What is in use by the count of the driver is more: the context of the
device with the compiled kernels and communication buffers, and blocks that the allocator has cached
but not in use.
"""

from dataclasses import dataclass

from systems.validation.job import MeasuredJob

BYTES_PER_PARAMETER = 20


@dataclass(frozen=True, kw_only=True)
class MemoryProperties:
    """Properties of devices and software that no profile shows, for memory."""

    context_bytes: float = 4.4e9
    """What a process holds on a GPU before it has a model: context, kernels, buffers."""
    cached_share: float = 0.12
    """What the allocator holds unused, over what it holds of activations."""


PROPERTIES = MemoryProperties()


def predict(job: MeasuredJob, properties: MemoryProperties = PROPERTIES) -> float | None:
    """Predict the memory of the fullest GPU of those whose memory was measured.

    None: the sizes of the layers are not known.
    """
    if not all(group.kept_bytes for group in job.profiles.values()):
        return None
    stages = [_stage_bytes(job, number, properties) for number in range(len(job.stages))]
    return stages[-1] if job.measured.memory_of_last_stage else max(stages)


def _stage_bytes(job: MeasuredJob, number: int, properties: MemoryProperties) -> float:
    """Compute the memory of the fullest GPU of one stage, in bytes."""
    stage = job.stages[number]
    in_flight = min(len(job.stages) - number, job.micro_batches)
    largest = 0.0
    for replica in stage.replicas:
        group = job.profile_of(replica)
        parameters = sum(group.parameters[stage.first : stage.end])
        activations = sum(group.kept_bytes[stage.first : stage.end]) * in_flight
        used = BYTES_PER_PARAMETER * parameters + activations * (1 + properties.cached_share)
        largest = max(largest, used)
    return properties.context_bytes + largest

"""From a measured job to the seconds of its parts: passes, messages, reductions, updates.

`formula` and `played` both put an iteration together from these.

[Note: host work]
Between two passes of a stage the host of a GPU reads samples, adds up the loss, describes and
exchanges tensors, and waits for the GPU each time it does. Meanwhile the GPU has nothing to do. A
layer that is too small for its GPU shows the same in its profile: its time hardly grows with the
batch, because the GPU waits for the host there too, and more work of the host is hidden or is in
the profile already. So the host's seconds count in the proportion in which the layers' time grows
with the batch, which the profiles at two batch sizes tell.

[Note: eager messages]
NCCL sends through a buffer. A message that fits in is copied there, and its sender computes on; of
a longer one the sender waits for the end, and it does not begin before its receiver is there.

[Note: rings]
The n replicas of a stage sum their gradients in rings, one for each part of a layer. A ring passes
2 (n - 1) / n of the part's bytes over each of its links. It enters and leaves every machine once,
through the network interfaces of the machine, however many replicas stand there; between replicas
of one machine it takes the links inside. Each GPU adds and copies what passes through it.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from systems.fair_links import Resource
from systems.validation.job import MeasuredJob, Replica, Stage
from systems.validation.rates import bytes_per_s


@dataclass(frozen=True, kw_only=True)
class Properties:
    """Properties of devices, network and software that no profile shows, for times."""

    host_s: float = 5e-3
    """Seconds for which the host keeps a GPU waiting in every micro-batch; see [Note: host work].
    Fitted over all plans of a set, never to one (`errors.cross_validate`)."""
    ring_bytes_per_s: float = 44e9
    """Bytes/s that a GPU adds and copies of a ring's messages, after they have arrived; see [Note:
    rings]. Fitted to measured reductions, not to iterations."""
    eager_bytes: int = 4 * 2**20
    """The longest message of one GPU that is sent without waiting: NCCL's default buffer
    (NCCL_BUFFSIZE); see [Note: eager messages]."""


PROPERTIES = Properties()


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message from a stage's replica to that of a neighbour."""

    loads_s: Mapping[Resource, float]
    """The seconds that it would take each interface alone."""
    eager: bool
    """Whether its sender computes on at once."""

    @property
    def seconds(self) -> float:
        """The seconds of the message on idle links."""
        return max(self.loads_s.values())


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """The seconds of a stage; tuples have an entry for every replica."""

    forward_s: tuple[float, ...]
    """The forward pass of a micro-batch."""
    backward_s: tuple[float, ...]
    """Its backward pass."""
    activations: tuple[Message, ...]
    """What goes to the next stage; empty for the last one."""
    gradients: tuple[Message, ...]
    """What comes back from there."""
    bucket_s: tuple[float, ...]
    """Copying the gradients together for the reduction, and apart after it."""
    ring_loads_s: Mapping[Resource, float]
    """The seconds that the reduction takes each interface alone; empty for one replica."""
    ring_s: float
    """The seconds in which a GPU adds and copies what the ring brings."""
    update_s: tuple[float, ...]
    """The optimizer's seconds."""


def stage_times(job: MeasuredJob, properties: Properties = PROPERTIES) -> tuple[StageTimes, ...]:
    """Compute the seconds of every stage of a job."""
    return tuple(_stage_times(job, number, properties) for number in range(len(job.stages)))


def _stage_times(job: MeasuredJob, number: int, properties: Properties) -> StageTimes:
    """Compute the seconds of the stage of that number."""
    stage = job.stages[number]
    passes = [_passes(job, number, replica, properties) for replica in stage.replicas]
    behind = job.stages[number + 1].replicas if number + 1 < len(job.stages) else ()
    pairs = list(zip(stage.replicas, behind, strict=True)) if behind else []
    size = _output_bytes(job, number)
    updates = tuple(_update_s(job, stage, replica) for replica in stage.replicas)
    ring_bytes = _ring_bytes(job, stage)
    return StageTimes(
        forward_s=tuple(forward for forward, _ in passes),
        backward_s=tuple(backward for _, backward in passes),
        activations=tuple(_message(job, a, b, size, properties) for a, b in pairs),
        gradients=tuple(_message(job, b, a, size, properties) for a, b in pairs),
        # Both pass over all tensors of the stage once and again, so they take about as long.
        bucket_s=updates,
        ring_loads_s=_ring_loads_s(job, stage, ring_bytes),
        ring_s=ring_bytes / properties.ring_bytes_per_s,
        update_s=updates,
    )


def _passes(
    job: MeasuredJob, number: int, replica: Replica, properties: Properties
) -> tuple[float, float]:
    """Compute the seconds of a replica's forward and backward pass. The GPUs of a group have each
    received a part of a message, and gather the rest from the others.

    The GPUs of a group have each received a part of a message, and gather the rest from the others.
    """
    stage = job.stages[number]
    layers = job.profile_of(replica).profile.layers[stage.first : stage.end]
    forward_s = sum(layer.forward_s for layer in layers)
    backward_s = sum(layer.backward_s for layer in layers)
    fixed_s = sum(layer.fixed_forward_s + layer.fixed_backward_s for layer in layers)
    forward_s += properties.host_s * (1 - fixed_s / (forward_s + backward_s))
    if number > 0:
        forward_s += _gather_s(job, replica, _output_bytes(job, number - 1))
    if number < len(job.stages) - 1:
        backward_s += _gather_s(job, replica, _output_bytes(job, number))
    return forward_s, backward_s


def _output_bytes(job: MeasuredJob, number: int) -> int:
    """Compute the activations of a micro-batch after a stage; as many bytes of gradients come
    back."""
    stage = job.stages[number]
    layers = job.profile_of(stage.replicas[0]).profile.layers
    return layers[stage.end - 1].activation_bytes


def _gather_s(job: MeasuredJob, replica: Replica, size_bytes: int) -> float:
    """Compute the seconds in which the GPUs of a group give one another their parts of a
    message."""
    count = replica.group.degree
    if count == 1:
        return 0.0
    part = size_bytes / count
    return part * (count - 1) / bytes_per_s(job.network.inside, replica.group.kind, count, part)


def _message(
    job: MeasuredJob, source: Replica, target: Replica, size_bytes: int, properties: Properties
) -> Message:
    """Make the message between two replicas; each GPU of the smaller group carries an equal
    part."""
    pairs = min(source.group.degree, target.group.degree)
    part = size_bytes / pairs
    eager = part <= properties.eager_bytes
    if source.machine == target.machine:
        seconds = part / bytes_per_s(job.network.inside, source.group.kind, 2, part)
        return Message(loads_s={(source.machine, "inside"): seconds}, eager=eager)
    between = job.network.between
    loads_s: dict[Resource, float] = {
        (source.machine, "out"): size_bytes / bytes_per_s(between, source.group.kind, pairs, part),
        (target.machine, "in"): size_bytes / bytes_per_s(between, target.group.kind, pairs, part),
    }
    return Message(loads_s=loads_s, eager=eager)


def _update_s(job: MeasuredJob, stage: Stage, replica: Replica) -> float:
    """Compute the optimizer's seconds at a stage: those of the model by the stage's part of the
    bytes."""
    group = job.profile_of(replica)
    layers = group.profile.layers[stage.first : stage.end]
    return group.update_s * sum(x.parameter_bytes for x in layers) / group.profile.parameter_bytes


def _part_bytes(job: MeasuredJob, stage: Stage, replica: Replica) -> int:
    """Compute the gradients of a stage on one GPU of a replica, in bytes."""
    layers = job.profile_of(replica).profile.layers[stage.first : stage.end]
    return sum(layer.parameter_bytes for layer in layers)


def _ring_bytes(job: MeasuredJob, stage: Stage) -> float:
    """Compute the bytes that a ring passes over each of its links; see [Note: rings]."""
    count = len(stage.replicas)
    largest = max(_part_bytes(job, stage, replica) for replica in stage.replicas)
    return 2 * (count - 1) / count * largest


def _ring_loads_s(job: MeasuredJob, stage: Stage, ring_bytes: float) -> dict[Resource, float]:
    """Compute the seconds that a stage's rings take each interface alone; see [Note: rings]."""
    count = len(stage.replicas)
    if count == 1:
        return {}
    machines = Counter(replica.machine for replica in stage.replicas)
    message = ring_bytes / (2 * (count - 1))
    loads_s: defaultdict[Resource, float] = defaultdict(float)
    for replica in {replica.machine: replica for replica in stage.replicas}.values():
        here, rings = machines[replica.machine], replica.group.degree
        if here > 1:
            rate = bytes_per_s(job.network.inside, replica.group.kind, here, message)
            loads_s[replica.machine, "inside"] = ring_bytes / rate
        if len(machines) > 1:
            rate = bytes_per_s(job.network.between, replica.group.kind, rings * here, message)
            for way in ("out", "in"):
                loads_s[replica.machine, way] = rings * ring_bytes / rate
    return dict(loads_s)

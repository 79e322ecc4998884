"""The runtime of a stage: it executes the stage's actions in the list of a rank.

Communication overlaps computation. A thread receives activations ahead of need (`mailbox.Inbox`);
the receives of gradients are posted as soon as the activations have left; sends are only started
(`mailbox.Outbox`); the gradients of replicas are summed while the backward pass still runs
(`reduction`). So an action of the list that communicates only waits for what is not there yet.

[Unequal shares] Each replica of a stage takes consecutive samples of a micro-batch, more of them if
its device is faster. Neighbouring stages split the samples in their own ways, so a replica may get
its samples from several replicas and send them to several (`samples.shared_samples`):

    samples            0  1  2  3  4  5  6  7
    stage 0 of 2 ranks [---- rank 0 ---][1  1]      rank 0 sends 0-2 to rank 2, 3-5 to rank 3;
    stage 1 of 2 ranks [rank 2][--- rank 3 --]      rank 1 sends 6-7 to rank 3

A replica without samples computes nothing, and takes part in the all-reduce with zeros.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.runtime.mailbox import Inbox, Outbox
from sparsepipe.runtime.reduction import Reduction
from sparsepipe.runtime.samples import shared_samples, within
from sparsepipe.runtime.transfer import Receiving, ReceivingGradients, send_gradients, send_values
from sparsepipe.runtime.values import (
    Value,
    as_leaves,
    backward_through,
    features_of,
    join_samples,
    leaf_gradients,
    take_samples,
    tensors_of,
)
from sparsepipe.runtime.versions import WeightVersions
from sparsepipe.schedule.lists import ActionKind, Schedule
from systems.network.distributed import World
from systems.network.transport import Transport
from systems.schema import InputError


class Batches(Protocol):
    """The mini-batches, by number. All ranks ask for `voxels`, the first stage for inputs, and the
    last stage for targets."""

    def voxels(self, mini_batch: int) -> Sequence[int]:
        """The voxels of each sample, by which samples are shared out; the same on all ranks."""
        ...

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """The values that the network takes, for these samples of the mini-batch."""
        ...

    def targets(self, mini_batch: int, samples: range) -> Any:
        """The targets that the loss takes, for these samples of the mini-batch."""
        ...

    def count(self, mini_batch: int) -> int:
        """The number that the sum of all losses is divided by, such as that of the samples."""
        ...


@dataclass(frozen=True, kw_only=True)
class RankContext:
    """What all stages of one rank have in common."""

    schedule: Schedule
    """The schedule, with the lists of all ranks."""
    world: World
    """This rank and its connections to the others."""
    batches: Batches
    """The mini-batches."""
    ranges: Callable[[int, int], Sequence[range]]
    """Given a stage and a micro-batch, the samples of each replica, numbered in the mini-batch."""
    loss_sum: Callable[[Value, Any], Tensor]
    """The sum of the losses, from the last stage's output and the targets of the same samples."""
    on_output: Callable[[int, range, Value], None] | None
    """Gets what inference computes: (mini-batch, samples, output)."""
    outbox: Outbox
    """Keeps messages that are on their way out."""
    ahead: bool = True
    """Whether `batches` knows a mini-batch before its turn. Where it does not, as when a user gives
    one after the other, no receive is posted for the next one."""


class StageRuntime:
    """One stage on one rank. `do` holds a method for every kind of action."""

    def __init__(
        self,
        number: int,
        module: nn.Module,
        context: RankContext,
        *,
        arity: int,
        before: Transport,
        after: Transport,
        weights: WeightVersions,
        reduction: Reduction,
    ) -> None:
        """Begin to receive activations.

        Args:
            module: takes and returns the tuples of values that cross its ends.
            arity: how many values it takes.
            before: carries activations from the stage before, and their gradients back.
            after: carries activations to the stage after, and their gradients back.
            weights: the weight versions of the module.
            reduction: sums the module's gradients over the replicas.
        """
        self.number, self._module, self._arity, self._context = number, module, arity, context
        self._before, self._after = before, after
        self._weights, self._reduction = weights, reduction
        schedule, rank = context.schedule, context.world.rank
        self._replica = schedule.stages[number].index(rank)
        self._last = number == len(schedule.stages) - 1
        self._training = schedule.kind != "forward"
        # By micro-batch, for those in flight.
        self._inputs: dict[int, tuple[Value, ...]] = {}
        self._outputs: dict[int, tuple[Value, ...]] = {}
        self._awaited: dict[int, list[ReceivingGradients]] = {}
        self._arrived: dict[int, list[Tensor]] = {}
        self.losses: defaultdict[int, float] = defaultdict(float)
        """By mini-batch, the sum of this replica's losses; at the last stage only."""
        self.do: dict[ActionKind, Callable[[int], None]] = {
            ActionKind.RECEIVE_ACTIVATION: self._receive_activation,
            ActionKind.FORWARD: self._forward,
            ActionKind.SEND_ACTIVATION: self._send_activation,
            ActionKind.RECEIVE_GRADIENT: self._receive_gradient,
            ActionKind.BACKWARD: self._backward,
            ActionKind.SEND_GRADIENT: self._send_gradient,
            ActionKind.REDUCE: lambda _: self._reduction.wait(),
            ActionKind.UPDATE: self._update,
        }
        if number:
            self._inbox = Inbox(
                self._arrivals(),
                f"activations for stage {number}",
                device=context.world.device,
                tensors=tensors_of,
            )

    @property
    def kept_versions(self) -> int:
        """How many versions of the stage's weights are in memory."""
        return self._weights.kept

    def samples(self, micro_batch: int) -> range:
        """The samples that this replica takes, numbered in the mini-batch."""
        return self._context.ranges(self.number, micro_batch)[self._replica]

    def mini_batch_size(self, mini_batch: int) -> int:
        """The number of samples of all replicas together."""
        return len(self._context.batches.voxels(mini_batch))

    def voxels(self, micro_batch: int) -> int:
        """The voxels that this replica's samples have in the input of the network."""
        samples = self.samples(micro_batch)
        mini_batch = micro_batch // self._context.schedule.micro_batches
        return sum(self._context.batches.voxels(mini_batch)[samples.start : samples.stop])

    def held_bytes(self) -> int:
        """Bytes of the values at the stage's ends, of all micro-batches in flight."""
        tuples = (*self._inputs.values(), *self._outputs.values())
        return sum(features_of(value).nbytes for values in tuples for value in values)

    def _peers(self, stage: int, micro_batch: int) -> list[tuple[int, range]]:
        """The ranks of a neighbouring stage that this replica shares samples with, and which.

        The samples are numbered from this replica's first.
        """
        own, ranks = self.samples(micro_batch), self._context.schedule.stages[stage]
        shared = shared_samples(own, self._context.ranges(stage, micro_batch))
        return [(ranks[number], within(samples, own)) for number, samples in shared]

    def _arrivals(self) -> Iterator[tuple[Value, ...]]:
        """Receive the inputs of this replica's micro-batches; runs on the inbox's thread."""
        schedule = self._context.schedule
        total = schedule.mini_batches * schedule.micro_batches
        upcoming: list[Receiving] = []
        for micro_batch in range(total):
            if not self.samples(micro_batch):
                continue
            arriving = upcoming or self._receivings(micro_batch)
            for receiving in arriving:
                receiving.post()
            # The next header travels beside this one's features. One ahead, and no further: sizes
            # of later mini-batches may not be known for long.
            following = self._following(micro_batch, total)
            upcoming = [] if following is None else self._receivings(following)
            yield join_samples([receiving.wait() for receiving in arriving])

    def _following(self, micro_batch: int, total: int) -> int | None:
        """The next micro-batch of which this replica takes samples, if that is known already."""
        micro_batches = self._context.schedule.micro_batches
        end = total if self._context.ahead else (micro_batch // micro_batches + 1) * micro_batches
        later = range(micro_batch + 1, end)
        return next((micro for micro in later if self.samples(micro)), None)

    def _receivings(self, micro_batch: int) -> list[Receiving]:
        """Post the receives of a micro-batch's headers."""
        peers = self._peers(self.number - 1, micro_batch)
        return [Receiving(self._before, rank, self._arity) for rank, _ in peers]

    # One method for each kind of action.

    def _receive_activation(self, micro_batch: int) -> None:
        """Wait for the inputs of this replica's samples."""
        if self.samples(micro_batch):
            values = self._inbox.get()
            self._inputs[micro_batch] = as_leaves(values) if self._training else values

    def _forward(self, micro_batch: int) -> None:
        """Compute the outputs, at the last stage the loss; keep what the backward pass needs."""
        samples, batches = self.samples(micro_batch), self._context.batches
        mini_batch = micro_batch // self._context.schedule.micro_batches
        if self._training:
            self._weights.keep(micro_batch)
        if not samples:
            return
        if not self.number:
            self._inputs[micro_batch] = batches.inputs(mini_batch, samples)
        if not self._training:
            with torch.no_grad():
                outputs = self._module(*self._inputs[micro_batch])
            del self._inputs[micro_batch]
            if self._last and self._context.on_output is not None:
                self._context.on_output(mini_batch, samples, outputs[0])
        else:
            outputs = self._weights.forward(micro_batch, self._inputs[micro_batch])
            if self._last:
                loss = self._context.loss_sum(outputs[0], batches.targets(mini_batch, samples))
                self.losses[mini_batch] += loss.item()
                outputs = (loss / batches.count(mini_batch),)
        if self._training or not self._last:
            self._outputs[micro_batch] = outputs

    def _send_activation(self, micro_batch: int) -> None:
        """Start sending the outputs, and post the receives of their gradients."""
        if not self.samples(micro_batch):
            return
        outputs = self._outputs[micro_batch] if self._training else self._outputs.pop(micro_batch)
        self._awaited[micro_batch] = []
        self._check(outputs, micro_batch)
        for rank, samples in self._peers(self.number + 1, micro_batch):
            part = take_samples(outputs, samples)
            if self._training:  # receives first: gloo may serialise a pair's directions otherwise
                self._awaited[micro_batch].append(ReceivingGradients(self._after, rank, part))
            self._context.outbox.put(send_values(self._after, rank, part))

    def _check(self, outputs: tuple[Value, ...], micro_batch: int) -> None:
        """Refuse outputs that cannot be divided by samples, as a pipeline divides them."""
        count = len(self.samples(micro_batch))
        names = getattr(self._module, "outputs", ("value",) * len(outputs))
        for name, value in zip(names, outputs, strict=True):
            if isinstance(value, SparseTensor):
                continue
            if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
                given = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value)
                raise InputError(
                    f"cut after stage {self.number}: {name}, which crosses it, has {given}, and "
                    f"only tensors whose first dimension is the {count} samples can; cut elsewhere"
                )

    def _receive_gradient(self, micro_batch: int) -> None:
        """Wait for the gradients of the outputs, and join those from several ranks."""
        parts = [awaited.wait() for awaited in self._awaited.pop(micro_batch, [])]
        self._arrived[micro_batch] = [torch.cat(pieces) for pieces in zip(*parts, strict=True)]

    def _backward(self, micro_batch: int) -> None:
        """Compute gradients; those of a mini-batch's last micro-batch go into the all-reduce."""
        last = (micro_batch + 1) % self._context.schedule.micro_batches == 0
        if last:
            self._reduction.begin(self._weights.leaves(micro_batch))
        arrived = self._arrived.pop(micro_batch, [])
        outputs = self._outputs.pop(micro_batch, ())
        if self._last and outputs:
            features_of(outputs[0]).backward()
        elif outputs:
            backward_through(outputs, arrived)
        if last:
            self._reduction.end()
        if not self.number:
            self._inputs.pop(micro_batch, None)
        self._weights.drop(micro_batch)

    def _send_gradient(self, micro_batch: int) -> None:
        """Start sending the gradients of the inputs back."""
        of_inputs = leaf_gradients(self._inputs.pop(micro_batch, ()))
        for rank, samples in self._peers(self.number - 1, micro_batch):
            part = take_samples(of_inputs, samples)
            self._context.outbox.put(send_gradients(self._before, rank, part))

    def _update(self, micro_batch: int) -> None:
        """Update the weights with the oldest gradients that have been summed."""
        self._weights.update(self._reduction.finish())

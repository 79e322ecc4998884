"""The runtime of a stage: executes its part of a rank's list, step by step.

Activations are received ahead of need by a thread (`mailbox.Inbox`); the gradients that come back
for them are awaited from the moment they are sent; sends are only started (`mailbox.Outbox`); the
gradients of replicas are summed while the backward pass still runs (`reduction`). What is left of
communication in the list is waiting for what has not arrived yet.

A replica has consecutive samples of a micro-batch. Neighbouring stages split the samples in their
own ways: a replica's may come from several and go to several. A replica without samples computes
nothing, and takes part in the all-reduce with zeros.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sparsepipe.pipeline.mailbox import Inbox, Outbox
from sparsepipe.pipeline.reduction import Reduction
from sparsepipe.pipeline.samples import passages, within
from sparsepipe.pipeline.transfer import (
    Receiving,
    ReceivingGradients,
    send_gradients,
    send_values,
)
from sparsepipe.pipeline.values import (
    Value,
    as_leaves,
    backward_through,
    features_of,
    join_samples,
    leaf_gradients,
    take_samples,
)
from sparsepipe.pipeline.versions import WeightVersions
from sparsepipe.schedule.lists import ActionKind, Schedule
from systems.network.distributed import World
from systems.network.transport import Transport


class Batches(Protocol):
    """The mini-batches. Every rank asks for the sizes, those at the ends for what is in them."""

    def voxels(self, mini_batch: int) -> Sequence[int]:
        """Of each sample: what the samples are shared out by. The same on all ranks."""
        ...

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """What the network takes, of these samples."""
        ...

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """What the loss takes, of these samples."""
        ...

    def count(self, mini_batch: int) -> int:
        """What the sum of all losses is divided by, such as the number of samples."""
        ...


@dataclass(frozen=True, kw_only=True)
class RankContext:
    """What the stages of a rank have in common."""

    schedule: Schedule
    world: World
    batches: Batches
    ranges: Callable[[int, int], Sequence[range]]
    """The samples of each replica, numbered in the mini-batch, by stage and micro-batch."""
    loss_sum: Callable[[Value, Tensor], Tensor]
    """Of the last stage's output and the targets of the same samples."""
    on_output: Callable[[int, range, Value], None] | None
    """Gets what inference computes: mini-batch, samples, value."""
    outbox: Outbox


class StageRuntime:
    """One stage on one rank; `do` has a method for every action."""

    def __init__(
        self,
        number: int,
        module: nn.Module,
        surroundings: RankContext,
        *,
        arity: int,
        before: Transport,
        after: Transport,
        weights: WeightVersions,
        reduction: Reduction,
    ) -> None:
        """Begin to receive.

        Args:
            module: takes and returns the tuples of values that cross its ends.
            arity: how many values it takes.
            before: carries what crosses to this stage and its gradients; `after`, from it.
        """
        self.number, self._module, self._arity, self._around = number, module, arity, surroundings
        self._before, self._after = before, after
        self._weights, self._reduction = weights, reduction
        schedule, rank = surroundings.schedule, surroundings.world.rank
        self._replica = schedule.stages[number].index(rank)
        self._last = number == len(schedule.stages) - 1
        self._training = schedule.kind != "forward"
        self._senders: dict[int, list[range]] = {}
        self._inputs: dict[int, tuple[Value, ...]] = {}
        self._outputs: dict[int, tuple[Value, ...]] = {}
        self._awaited: dict[int, list[ReceivingGradients]] = {}
        self._arrived: dict[int, list[Tensor]] = {}
        self.losses: defaultdict[int, float] = defaultdict(float)
        """By mini-batch, the sum over its own samples: at the last stage."""
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
            self._inbox = Inbox(self._arrivals(), f"activations for stage {number}")

    @property
    def kept_versions(self) -> int:
        """How many versions of its weights are in memory."""
        return self._weights.kept

    def samples(self, micro_batch: int) -> range:
        """Its own ones, numbered in the mini-batch."""
        return self._around.ranges(self.number, micro_batch)[self._replica]

    def mini_batch_size(self, mini_batch: int) -> int:
        """Samples of all replicas."""
        return len(self._around.batches.voxels(mini_batch))

    def voxels(self, micro_batch: int) -> int:
        """What its own samples have in the network's input."""
        samples = self.samples(micro_batch)
        mini_batch = micro_batch // self._around.schedule.micro_batches
        return sum(self._around.batches.voxels(mini_batch)[samples.start : samples.stop])

    def held_bytes(self) -> int:
        """Of the values that it has received or made, of all micro-batches on their way."""
        held = [value for values in self._inputs.values() for value in values]
        held += [value for values in self._outputs.values() for value in values]
        return sum(features_of(value).nbytes for value in held)

    def _sources(self, micro_batch: int) -> list[tuple[int, range]]:
        """Who sends which of its own samples, numbered from its first."""
        ranges = self._around.ranges
        found = passages(ranges(self.number - 1, micro_batch), ranges(self.number, micro_batch))
        ranks = self._around.schedule.stages[self.number - 1]
        own = self.samples(micro_batch)
        return [
            (ranks[p.source], within(p.samples, own)) for p in found if p.target == self._replica
        ]

    def _targets(self, micro_batch: int) -> list[tuple[int, range]]:
        """To whom it sends which of its own samples, numbered from its first."""
        ranges = self._around.ranges
        found = passages(ranges(self.number, micro_batch), ranges(self.number + 1, micro_batch))
        ranks = self._around.schedule.stages[self.number + 1]
        own = self.samples(micro_batch)
        return [
            (ranks[p.target], within(p.samples, own)) for p in found if p.source == self._replica
        ]

    def _arrivals(self) -> Iterator[tuple[Value, ...]]:
        """On the inbox's thread: the inputs of each micro-batch of which it has samples."""
        schedule = self._around.schedule
        total = schedule.mini_batches * schedule.micro_batches
        # One ahead, and no further: sizes of later mini-batches may not be known for long.
        mine = (micro_batch for micro_batch in range(total) if self.samples(micro_batch))
        first = next(mine, None)
        upcoming = [] if first is None else self._receivings(first)
        for following in itertools.chain(mine, [None]):
            arriving = upcoming
            for receiving in arriving:
                receiving.post()
            # The next header travels beside this one's features.
            upcoming = [] if following is None else self._receivings(following)
            if arriving:
                yield join_samples([receiving.wait() for receiving in arriving])

    def _receivings(self, micro_batch: int) -> list[Receiving]:
        return [
            Receiving(self._before, rank, self._arity) for rank, _ in self._sources(micro_batch)
        ]

    def _receive_activation(self, micro_batch: int) -> None:
        if self.samples(micro_batch):
            values = self._inbox.get()
            self._inputs[micro_batch] = as_leaves(values) if self._training else values

    def _forward(self, micro_batch: int) -> None:
        samples, batches = self.samples(micro_batch), self._around.batches
        mini_batch = micro_batch // self._around.schedule.micro_batches
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
            if self._last and self._around.on_output is not None:
                self._around.on_output(mini_batch, samples, outputs[0])
        else:
            outputs = self._weights.forward(micro_batch, self._inputs[micro_batch])
            if self._last:
                loss = self._around.loss_sum(outputs[0], batches.targets(mini_batch, samples))
                self.losses[mini_batch] += loss.item()
                outputs = (loss / batches.count(mini_batch),)
        if self._training or not self._last:
            self._outputs[micro_batch] = outputs

    def _send_activation(self, micro_batch: int) -> None:
        if not self.samples(micro_batch):
            return
        outputs = self._outputs[micro_batch] if self._training else self._outputs.pop(micro_batch)
        self._awaited[micro_batch] = []
        for rank, samples in self._targets(micro_batch):
            part = take_samples(outputs, samples)
            if self._training:  # receives first: gloo may serialise a pair's directions otherwise
                self._awaited[micro_batch].append(ReceivingGradients(self._after, rank, part))
            self._around.outbox.put(send_values(self._after, rank, part))

    def _receive_gradient(self, micro_batch: int) -> None:
        parts = [awaited.wait() for awaited in self._awaited.pop(micro_batch, [])]
        self._arrived[micro_batch] = [torch.cat(pieces) for pieces in zip(*parts, strict=True)]

    def _backward(self, micro_batch: int) -> None:
        last = (micro_batch + 1) % self._around.schedule.micro_batches == 0
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
        of_inputs = leaf_gradients(self._inputs.pop(micro_batch, ()))
        for rank, samples in self._sources(micro_batch):
            part = take_samples(of_inputs, samples)
            self._around.outbox.put(send_gradients(self._before, rank, part))

    def _update(self, micro_batch: int) -> None:
        self._weights.update(self._reduction.finish())

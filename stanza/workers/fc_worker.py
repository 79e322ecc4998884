"""An FC worker: trains the FC part for its CONV workers (paper, section 3).

It concatenates the activations that they send, in rank order, runs the FC part forward and
backward, and returns to each the gradient of its samples. Several FC workers share the work in one
of two ways. Replicas hold all FC layers, serve some of the CONV workers each, and all-reduce the FC
gradients. Or each FC worker holds columns of the FC layers (`stanza.workers.columns`), receives its
columns of everyone's activations, and computes the loss of its share of the samples.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from stanza.workers.conv_worker import ACTIVATION, GRADIENT, LABEL, to_wire
from stanza.workers.exchange import Exchange
from stanza.workers.loss import Loss
from stanza.workers.targets import Targets, empty, joined, rows, split
from systems.network.transport import Transfer, Transport
from systems.runs.trace import Tracer


class FcWorker:
    """Trains the FC part on the activations of its CONV workers."""

    def __init__(
        self,
        fc: Exchange,
        loss_sum: Loss,
        *,
        transport: Transport,
        conv_ranks: Sequence[int],
        input_shape: tuple[int, ...],
        input_dtype: torch.dtype,
        own_samples: Callable[[int], slice],
        micro_batches: int,
        cut_dtype: torch.dtype,
        tracer: Tracer,
    ) -> None:
        """Serve the CONV workers `conv_ranks`.

        Args:
            fc: the FC part, and how its gradients are exchanged.
            loss_sum: the loss, summed over the samples.
            input_shape: the shape of one sample's activations, as they arrive here.
            input_dtype: what the FC part computes in.
            own_samples: tells of B gathered samples those whose logits `fc` returns: all of them in
                a replica, this worker's share where it holds columns.
        """
        self._fc, self._loss_sum = fc, loss_sum
        self._transport, self._conv_ranks = transport, list(conv_ranks)
        self._input_shape, self._input_dtype = input_shape, input_dtype
        self._own_samples = own_samples
        self._micro_batches = micro_batches
        self._cut_dtype, self._tracer = cut_dtype, tracer
        self._device = transport.world.device

    def step(self, batch_sizes: Sequence[int], like: Targets, global_batch_size: int) -> float:
        """Train one step on the activations of CONV workers with these local batches.

        Args:
            batch_sizes: the samples of every CONV worker; there may be none.
            like: targets of any number of samples, with the structure, dtypes and shapes of those
                that arrive.

        Returns:
            The sum of the losses of this worker's own samples.
        """
        # Post all receives at once: CONV workers send as soon as they can.
        targets = [empty(like, samples) for samples in batch_sizes]
        receives = [
            receive for leaves in _in_order(targets) for receive in self._receive_all(leaves, LABEL)
        ]
        activations = [
            torch.empty(b, prod(self._input_shape), dtype=self._cut_dtype, device=self._device)
            for b in batch_sizes
        ]
        parts = [a.tensor_split(self._micro_batches) for a in activations]
        filled = min(self._micro_batches, max(batch_sizes))  # the others have no samples
        arrivals = [
            self._receive_all([part[k] for part in parts], ACTIVATION) for k in range(filled)
        ]
        for receive in receives:
            receive.wait()
        target_parts = [split(one, self._micro_batches) for one in targets]
        losses: list[Tensor] = []
        sends: list[tuple[Transfer, Tensor]] = []
        for k, arrival in enumerate(arrivals):
            with self._tracer.span("wait for activations", micro_batch=k):
                for receive in arrival:
                    receive.wait()
            pieces = [part[k] for part in parts], [part[k] for part in target_parts]
            losses.append(self._train(k, *pieces, global_batch_size, sends, last=k == filled - 1))
        if not filled:
            self._fc.expect_gradients(None)
        with self._tracer.span("fc update"):
            self._fc.update()
        for send, _ in sends:
            send.wait()
        return torch.stack(losses).sum().item() if losses else 0.0

    def _train(
        self,
        micro_batch: int,
        activations: list[Tensor],
        targets: list[Targets],
        global_batch_size: int,
        sends: list[tuple[Transfer, Tensor]],
        *,
        last: bool,
    ) -> Tensor:
        """Run one micro-batch forward and backward, and send the cut gradients back.

        Args:
            activations: one piece from each CONV worker.
            targets: likewise.
            sends: receives the messages on their way, each with its buffer, which must outlive it.
            last: whether this is the step's last one.

        Returns:
            The sum of the losses of this worker's own samples.
        """
        gathered = torch.cat(activations).to(self._input_dtype)
        inputs = gathered.view(-1, *self._input_shape).requires_grad_()
        shares = [len(piece) for piece in activations]

        def send_back(ready: Tensor) -> None:
            """Send each CONV worker its samples' part of the gradient."""
            assert ready.grad is not None
            slices = ready.grad.flatten(1).split(shares)
            for rank, gradient in zip(self._conv_ranks, slices, strict=True):
                if not len(gradient):
                    continue
                wire = to_wire(gradient, self._cut_dtype, global_batch_size)
                sends.append((self._transport.isend(wire, rank, GRADIENT), wire))

        # From a hook, because the backward pass only returns when FC gradients are exchanged.
        inputs.register_post_accumulate_grad_hook(send_back)
        with self._tracer.span("fc forward and backward", micro_batch=micro_batch):
            own = rows(joined(targets), self._own_samples(len(inputs)))
            loss = self._loss_sum(self._fc.forward(inputs), own)
            if last:
                self._fc.expect_gradients(loss)
            (loss / global_batch_size).backward()
        if inputs.grad is None:  # the loss does not depend on the activations
            inputs.grad = torch.zeros_like(inputs)
            send_back(inputs)
        return loss.detach()

    def _receive_all(self, buffers: Sequence[Tensor], channel: str) -> list[Transfer]:
        """Start to receive one message from each CONV worker that has samples for it."""
        pairs = zip(buffers, self._conv_ranks, strict=True)
        return [
            self._transport.irecv(buffer, rank, channel) for buffer, rank in pairs if len(buffer)
        ]


def _in_order(targets: Sequence[Targets]) -> list[tuple[Tensor, ...]]:
    """The tensors of several targets of one structure: a tuple for each place in it."""
    return list(zip(*map(tree_leaves, targets), strict=True))

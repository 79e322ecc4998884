"""A CONV worker: trains the convolutional part on its share of the batch (paper, section 3).

The local batch crosses the cut in micro-batches, so that the network and the FC worker have work
while the CONV worker computes. With three micro-batches, a step takes this course:

    CONV worker   forward 1 | forward 2 | forward 3 | backward 1 | backward 2 | backward 3
    wire, there             |  acts 1   |  acts 2   |  acts 3
    FC worker                           |   fc 1    |    fc 2    |    fc 3
    wire, back                                      | gradient 1 | gradient 2 | gradient 3

All forward passes come first, then all backward passes in the same order, each as soon as its
gradient has come back. A CONV worker has one FC worker, or, where FC workers hold columns, all of
them: each then receives its slice of every sample's activations.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from stanza.layout import even_slice
from stanza.workers.exchange import Exchange
from stanza.workers.targets import Targets
from systems.network.transport import Transfer, Transport
from systems.runs.trace import Tracer

ACTIVATION, GRADIENT, LABEL = "activation", "cut gradient", "label"
"""The channels of the transport that the two kinds of workers use."""


class ConvWorker:
    """Trains the convolutional part on this rank's share of every batch."""

    def __init__(
        self,
        conv: Exchange,
        *,
        transport: Transport,
        fc_ranks: Sequence[int],
        cut_shape: tuple[int, ...],
        micro_batches: int,
        cut_dtype: torch.dtype,
        tracer: Tracer,
    ) -> None:
        """Send to `fc_ranks` in `cut_dtype`.

        Args:
            conv: the convolutional part, and how its gradients are exchanged.
            cut_shape: the shape of one sample's activations.
        """
        self._conv, self._transport, self._micro_batches = conv, transport, micro_batches
        values = prod(cut_shape)
        slices = [even_slice(values, index, len(fc_ranks)) for index in range(len(fc_ranks))]
        self._fc_slices = list(zip(fc_ranks, slices, strict=True))
        self._cut_dtype, self._tracer = cut_dtype, tracer

    def step(self, images: Tensor, targets: Targets, global_batch_size: int) -> None:
        """Train one step on images [b, C, H, W] and their targets, which are sent as they are.

        Micro-batches without samples are left out. The FC worker divides the loss by the global
        batch size, so the CONV workers' gradients only have to be summed.
        """
        parts = [part for part in images.tensor_split(self._micro_batches) if len(part)]
        gradients = [self._buffers(len(images_k), images.device) for images_k in parts]
        # Post the receives before any send: otherwise gloo may serialise the two directions.
        receives = [self._receive(buffers) for buffers in gradients]
        wire = [leaf.contiguous() for leaf in tree_leaves(targets)] if parts else []
        sends = [
            self._transport.isend(leaf, rank, LABEL) for rank, _ in self._fc_slices for leaf in wire
        ]
        # Forward: compute each micro-batch and send it off, without waiting for an answer.
        outputs: list[Tensor] = []
        for k, images_k in enumerate(parts):
            with self._tracer.span("conv forward", micro_batch=k):
                outputs.append(self._conv.forward(images_k))
            flat = outputs[-1].detach().to(self._cut_dtype).flatten(1)
            for rank, features in self._fc_slices:
                wire.append(flat[:, features].contiguous())
                sends.append(self._transport.isend(wire[-1], rank, ACTIVATION))
        # Backward: take the gradients in the order in which the micro-batches were sent.
        for k, arrival in enumerate(receives):
            with self._tracer.span("wait for cut gradient", micro_batch=k):
                for receive in arrival:
                    receive.wait()
            gradient = torch.cat(gradients[k], dim=1).view(outputs[k].shape)
            if k == len(parts) - 1:  # the exchange overlaps the last backward pass
                self._conv.expect_gradients(outputs[k])
            if outputs[k].requires_grad:  # not where all of the part is frozen
                with self._tracer.span("conv backward", micro_batch=k):
                    outputs[k].backward(from_wire(gradient, outputs[k].dtype, global_batch_size))
            outputs[k] = outputs[k].detach()  # frees the graph of this micro-batch
        if not parts:
            self._conv.expect_gradients(None)
        with self._tracer.span("conv update"):
            self._conv.update()
        for send in sends:
            send.wait()

    def _buffers(self, samples: int, device: torch.device) -> list[Tensor]:
        """Allocate the buffers for the gradients of one micro-batch, one for each FC worker."""
        return [
            torch.empty(
                samples, features.stop - features.start, dtype=self._cut_dtype, device=device
            )
            for _, features in self._fc_slices
        ]

    def _receive(self, buffers: Sequence[Tensor]) -> list[Transfer]:
        """Start to receive one micro-batch's gradient slices from the FC workers."""
        pairs = zip(buffers, self._fc_slices, strict=True)
        return [self._transport.irecv(buffer, rank, GRADIENT) for buffer, (rank, _) in pairs]


def to_wire(gradient: Tensor, dtype: torch.dtype, global_batch_size: int) -> Tensor:
    """Convert a cut gradient to the dtype in which it travels.

    In a narrow dtype the gradient of the batch's sum travels, not that of its mean: divided by a
    large batch size, many values would be too small for float16 and become zero.
    """
    if dtype == gradient.dtype:
        return gradient.contiguous()
    return (gradient * global_batch_size).to(dtype).contiguous()


def from_wire(gradient: Tensor, dtype: torch.dtype, global_batch_size: int) -> Tensor:
    """Convert a cut gradient back to `dtype` and to that of the batch's mean, after `to_wire`."""
    return gradient if gradient.dtype == dtype else gradient.to(dtype) / global_batch_size

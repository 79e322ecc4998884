"""A CONV worker: trains the convolutional part on its share of the batch (paper, section 3).

It sends the activations at the cut to its FC worker, micro-batch by micro-batch, and gets their
gradients back in the same order. While one micro-batch is on the wire or at the FC worker, the
next is computed.
"""

import torch
from torch import Tensor

from stanza.exchange import Exchange
from systems.trace import Tracer
from systems.transport import Transport

ACTIVATION, GRADIENT, LABEL = "activation", "cut gradient", "label"


class ConvWorker:
    """The convolutional part's side of the cut."""

    def __init__(
        self,
        conv: Exchange,
        *,
        transport: Transport,
        fc_rank: int,
        cut_shape: tuple[int, ...],
        micro_batches: int,
        cut_dtype: torch.dtype,
        tracer: Tracer,
    ) -> None:
        self._conv, self._transport, self._fc_rank = conv, transport, fc_rank
        self._cut_shape, self._micro_batches = cut_shape, micro_batches
        self._cut_dtype, self._tracer = cut_dtype, tracer

    def step(self, images: Tensor, labels: Tensor, global_batch_size: int) -> None:
        """One step on images [b, C, H, W] and labels int64 [b].

        The FC worker divides the loss by the global batch size; gradients arrive ready to sum.
        """
        parts = images.tensor_split(self._micro_batches)
        gradients = [
            torch.empty(len(part), *self._cut_shape, dtype=self._cut_dtype, device=images.device)
            for part in parts
        ]
        # Receives first: gloo may serialise a pair's two directions otherwise.
        receives = [self._transport.irecv(g, self._fc_rank, GRADIENT) for g in gradients]
        wire = [labels.to(torch.int32)]
        sends = [self._transport.isend(wire[0], self._fc_rank, LABEL)]
        outputs: list[Tensor] = []
        for k, part in enumerate(parts):
            with self._tracer.span("conv forward", micro_batch=k):
                outputs.append(self._conv.forward(part))
            wire.append(outputs[-1].detach().to(self._cut_dtype).contiguous())
            sends.append(self._transport.isend(wire[-1], self._fc_rank, ACTIVATION))
        for k, (receive, gradient) in enumerate(zip(receives, gradients, strict=True)):
            with self._tracer.span("wait for cut gradient", micro_batch=k):
                receive.wait()
            if k == len(parts) - 1:
                self._conv.expect_gradients(outputs[k])
            with self._tracer.span("conv backward", micro_batch=k):
                outputs[k].backward(from_wire(gradient, outputs[k].dtype, global_batch_size))
            outputs[k] = outputs[k].detach()  # frees the graph of this micro-batch
        with self._tracer.span("conv update"):
            self._conv.update()
        for send in sends:
            send.wait()


def to_wire(gradient: Tensor, dtype: torch.dtype, global_batch_size: int) -> Tensor:
    """A cut gradient as it travels. In a narrow dtype the mean over the batch is taken after the
    wire: float16 would flush gradients of a large batch's mean to zero."""
    if dtype == gradient.dtype:
        return gradient.contiguous()
    return (gradient * global_batch_size).to(dtype).contiguous()


def from_wire(gradient: Tensor, dtype: torch.dtype, global_batch_size: int) -> Tensor:
    """The inverse of `to_wire`."""
    return gradient if gradient.dtype == dtype else gradient.to(dtype) / global_batch_size

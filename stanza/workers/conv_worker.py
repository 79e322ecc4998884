"""A CONV worker: trains the convolutional part on its share of the batch (paper, section 3).

It sends the activations at the cut to its FC worker, micro-batch by micro-batch, and gets their
gradients back in the same order; of several FC workers each has a slice of every sample. While one
micro-batch is on the wire or at the FC worker, the next is computed.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from stanza.layout import even_slice
from stanza.workers.exchange import Exchange
from systems.network.transport import Transfer, Transport
from systems.runs.trace import Tracer

ACTIVATION, GRADIENT, LABEL = "activation", "cut gradient", "label"


class ConvWorker:
    """The convolutional part's side of the cut."""

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
        self._conv, self._transport, self._micro_batches = conv, transport, micro_batches
        values = prod(cut_shape)
        slices = [even_slice(values, index, len(fc_ranks)) for index in range(len(fc_ranks))]
        self._targets = list(zip(fc_ranks, slices, strict=True))
        self._cut_dtype, self._tracer = cut_dtype, tracer

    def step(self, images: Tensor, labels: Tensor, global_batch_size: int) -> None:
        """One step on images [b, C, H, W] and labels int64 [b].

        The FC worker divides the loss by the global batch size; gradients arrive ready to sum.
        """
        parts = images.tensor_split(self._micro_batches)
        gradients = [self._buffers(len(images_k), images.device) for images_k in parts]
        # Receives first: gloo may serialise a pair's two directions otherwise.
        receives = [self._receive(buffers) for buffers in gradients]
        wire = [labels.to(torch.int32)]
        sends = [self._transport.isend(wire[0], rank, LABEL) for rank, _ in self._targets]
        outputs: list[Tensor] = []
        for k, images_k in enumerate(parts):
            with self._tracer.span("conv forward", micro_batch=k):
                outputs.append(self._conv.forward(images_k))
            flat = outputs[-1].detach().to(self._cut_dtype).flatten(1)
            for rank, held in self._targets:
                wire.append(flat[:, held].contiguous())
                sends.append(self._transport.isend(wire[-1], rank, ACTIVATION))
        for k, arrival in enumerate(receives):
            with self._tracer.span("wait for cut gradient", micro_batch=k):
                for receive in arrival:
                    receive.wait()
            gradient = torch.cat(gradients[k], dim=1).view(outputs[k].shape)
            if k == len(parts) - 1:
                self._conv.expect_gradients(outputs[k])
            with self._tracer.span("conv backward", micro_batch=k):
                outputs[k].backward(from_wire(gradient, outputs[k].dtype, global_batch_size))
            outputs[k] = outputs[k].detach()  # frees the graph of this micro-batch
        with self._tracer.span("conv update"):
            self._conv.update()
        for send in sends:
            send.wait()

    def _buffers(self, samples: int, device: torch.device) -> list[Tensor]:
        """Where the gradients of one micro-batch arrive, one slice from each FC worker."""
        return [
            torch.empty(samples, held.stop - held.start, dtype=self._cut_dtype, device=device)
            for _, held in self._targets
        ]

    def _receive(self, buffers: Sequence[Tensor]) -> list[Transfer]:
        pairs = zip(buffers, self._targets, strict=True)
        return [self._transport.irecv(buffer, rank, GRADIENT) for buffer, (rank, _) in pairs]


def to_wire(gradient: Tensor, dtype: torch.dtype, global_batch_size: int) -> Tensor:
    """A cut gradient as it travels. In a narrow dtype the mean over the batch is taken after the
    wire: float16 would flush gradients of a large batch's mean to zero."""
    if dtype == gradient.dtype:
        return gradient.contiguous()
    return (gradient * global_batch_size).to(dtype).contiguous()


def from_wire(gradient: Tensor, dtype: torch.dtype, global_batch_size: int) -> Tensor:
    """The inverse of `to_wire`."""
    return gradient if gradient.dtype == dtype else gradient.to(dtype) / global_batch_size

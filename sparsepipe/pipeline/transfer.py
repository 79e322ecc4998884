"""Values between two ranks: a header, int32 coordinates, features; and gradients back.

    sending = send(transport, peer, values)
    receiving = Receiving(transport, peer, count=len(stage.inputs))     # may be posted far ahead
    values = receiving.wait()
    ...
    returning = send_gradients(transport, peer, gradients(values))      # no header: sizes are known
    of_values = ReceivingGradients(transport, peer, values).wait()

Sizes differ in every mini-batch, so a header of fixed size goes first. All sparse values of one
message share coordinate maps on both sides; a transposed convolution finds the finer voxels there,
since the skip that it is joined with comes in the same message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparsepipe.engine.coordinate_maps import CoordinateMaps, pooled_keys
from sparsepipe.engine.coordinates import pack
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.pipeline.values import Value, features_of, shared_maps
from systems.network.transport import Transfer, Transport
from systems.schema import InputError

HEADER, COORDINATES, FEATURES, GRADIENT = "header", "coordinates", "features", "gradient"
CHANNELS = (HEADER, COORDINATES, FEATURES, GRADIENT)
"""What the transport must have been opened with."""

Coordinates = Literal["all", "finest", "none"]
"""Which voxels are sent: those of every tensor stride; only those that cannot be derived from finer
ones of the same message; or none, where the receiver has maps of the mini-batch already.

The pipeline sends all: deriving strides 2 to 16 of 11,000 and 42,000 voxels took 1.8 and 19 ms on a
core (medians of 9), sending them takes 1.1 and 4 ms at 1 Gb/s, a tenth of that at 10. Deriving is
faster over links slower than 0.2 to 0.6 Gb/s only."""

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)
_PLAIN = -1
"""A plain tensor's tensor stride, in the header."""
_SIZES = 5
"""A dense volume has so many dimensions, and no tensor has more."""
_FIELDS = 5 + _SIZES


@dataclass(frozen=True, kw_only=True)
class Description:
    """One value, as a row of the header, int64: its fields, and its shape filled up with zeros."""

    dtype: torch.dtype
    tensor_stride: int
    """-1 for a plain tensor."""
    batch_size: int
    """Of a sparse tensor."""
    with_coordinates: bool
    """Whether the voxels at this stride are sent; so they are with one value of each stride."""
    shape: tuple[int, ...]

    def row(self) -> list[int]:
        """The numbers that `described` reads."""
        sizes = [*self.shape, *[0] * (_SIZES - len(self.shape))]
        kind = _DTYPES.index(self.dtype)
        fields = [kind, self.tensor_stride, self.batch_size, int(self.with_coordinates)]
        return [*fields, len(self.shape), *sizes]


def described(row: Sequence[int]) -> Description:
    """The inverse of `Description.row`."""
    kind, stride, batch_size, with_coordinates, dimensions, *sizes = row
    return Description(
        dtype=_DTYPES[kind],
        tensor_stride=stride,
        batch_size=batch_size,
        with_coordinates=bool(with_coordinates),
        shape=tuple(sizes[:dimensions]),
    )


def describe(values: Sequence[Value], coordinates: Coordinates = "all") -> list[Description]:
    """What the header says of the values.

    Raises:
        ValueError: sparse values that do not share coordinate maps, or whose rows are not sorted,
            as those of `values.take` are; a dtype that does not travel.
    """
    shared_maps(values)
    if any(
        isinstance(value, SparseTensor) and value.rows is not value.features for value in values
    ):
        raise ValueError("rows of sparse values travel sorted: send what values.take returns")
    descriptions, unsent = [], _strides_to_send(values, coordinates)
    for value in values:
        tensor, stride, batch_size = features_of(value), _PLAIN, 0
        if isinstance(value, SparseTensor):
            stride, batch_size = value.tensor_stride, value.batch_size
        if tensor.dtype not in _DTYPES or tensor.ndim > _SIZES:
            raise ValueError(f"{tensor.dtype} of {tensor.ndim} dimensions does not travel")
        descriptions.append(
            Description(
                dtype=tensor.dtype,
                tensor_stride=stride,
                batch_size=batch_size,
                with_coordinates=stride in unsent,
                shape=tuple(tensor.shape),
            )
        )
        unsent.discard(stride)
    return descriptions


def _strides_to_send(values: Sequence[Value], coordinates: Coordinates) -> set[int]:
    """Never 0: the rows of global pooling are known from the batch size."""
    strides = {v.tensor_stride for v in values if isinstance(v, SparseTensor)} - {0}
    if coordinates == "all":
        return strides
    if coordinates == "none":
        return set()
    return {s for s in strides if not any(s > finer and s % finer == 0 for finer in strides)}


class Sending:
    """Messages on their way; keeps their tensors."""

    def __init__(self, transport: Transport, peer: int) -> None:
        self._transport, self._peer = transport, peer
        self._transfers: list[Transfer] = []
        self._tensors: list[Tensor] = []

    def add(self, tensor: Tensor, channel: str) -> None:
        """Start sending; a tensor without elements is not sent."""
        if tensor.numel():
            self._tensors.append(tensor.detach().contiguous())
            self._transfers.append(
                self._transport.isend(self._tensors[-1], self._peer, channel),
            )

    def wait(self) -> None:
        """Block until all is sent, and let go of the tensors.

        Raises:
            TransportError: see `systems.network.transport`.
        """
        for transfer in self._transfers:
            transfer.wait()
        self._transfers, self._tensors = [], []


def send_values(
    transport: Transport, peer: int, values: Sequence[Value], coordinates: Coordinates = "all"
) -> Sending:
    """Start sending the values of one mini-batch; leave their tensors unchanged until `wait`."""
    descriptions = describe(values, coordinates)
    sending = Sending(transport, peer)
    rows = [description.row() for description in descriptions]
    sending.add(torch.tensor(rows, device=transport.world.device), HEADER)
    for value, description in zip(values, descriptions, strict=True):
        if isinstance(value, SparseTensor) and description.with_coordinates:
            sending.add(value.coordinates, COORDINATES)
    for value in values:
        sending.add(features_of(value), FEATURES)
    return sending


def send_gradients(transport: Transport, peer: int, gradients: Sequence[Value]) -> Sending:
    """Start sending back the gradients of the values that came from `peer`, in their order."""
    sending = Sending(transport, peer)
    for gradient in gradients:
        sending.add(features_of(gradient), GRADIENT)
    return sending


class Receiving:
    """The values of one mini-batch, on their way from `peer`; those of the next one are another.

    The receive of the header is posted at once. `post` waits for it and posts the rest, so that it
    arrives while something else is computed; `wait` does that too if need be. Of several that were
    made for one peer, `post` must be called in the order in which they were made.
    """

    def __init__(
        self, transport: Transport, peer: int, count: int, maps: CoordinateMaps | None = None
    ) -> None:
        """`count` values; `maps` of the same samples, where coordinates were left out."""
        self._transport, self._peer, self._maps = transport, peer, maps
        device = transport.world.device
        self._header = torch.empty(count, _FIELDS, dtype=torch.int64, device=device)
        self._header_transfer = transport.irecv(self._header, peer, HEADER)
        self._descriptions: list[Description] = []
        self._coordinates: list[Tensor] = []
        self._features: list[Tensor] = []
        self._transfers: list[Transfer] = []

    def post(self) -> None:
        """Wait for the header and start receiving what it announces."""
        if self._descriptions:
            return
        self._header_transfer.wait()
        self._descriptions = [described(row) for row in self._header.tolist()]
        for announced in self._descriptions:
            if announced.with_coordinates:
                shape = (announced.shape[0], 4)
                self._coordinates.append(self._expect(shape, torch.int32, COORDINATES))
        for announced in self._descriptions:
            self._features.append(self._expect(announced.shape, announced.dtype, FEATURES))

    def wait(self) -> tuple[Value, ...]:
        """The values, in the order in which they were sent, without gradients.

        Raises:
            InputError: coordinates were left out, and cannot be derived from what is there.
            TransportError: see `systems.network.transport`.
        """
        self.post()
        for transfer in self._transfers:
            transfer.wait()
        return assemble(self._descriptions, self._coordinates, self._features, self._maps)

    def _expect(self, shape: tuple[int, ...], dtype: torch.dtype, channel: str) -> Tensor:
        buffer = torch.empty(shape, dtype=dtype, device=self._transport.world.device)
        if buffer.numel():
            self._transfers.append(self._transport.irecv(buffer, self._peer, channel))
        return buffer


class ReceivingGradients:
    """The gradients of values that were sent to `peer`, on their way back; may be posted far ahead.

    Their sizes are those of `values`.
    """

    def __init__(self, transport: Transport, peer: int, values: Sequence[Value]) -> None:
        tensors = [features_of(value) for value in values]
        self._buffers = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors]
        self._transfers = [
            transport.irecv(buffer, peer, GRADIENT) for buffer in self._buffers if buffer.numel()
        ]

    def wait(self) -> tuple[Tensor, ...]:
        """Of each value the gradient of its features, or of the plain tensor that it is."""
        for transfer in self._transfers:
            transfer.wait()
        return tuple(self._buffers)


def assemble(
    descriptions: Sequence[Description],
    coordinates: Sequence[Tensor],
    features: Sequence[Tensor],
    maps: CoordinateMaps | None = None,
) -> tuple[Value, ...]:
    """The values of a message, the sparse ones with shared coordinate maps.

    Args:
        coordinates: int32 [N, 4] for each description `with_coordinates`, in order.
        maps: what the receiver knows of the mini-batch already; it is added to.

    Raises:
        InputError: voxels that are neither there nor derivable.
    """
    arrived = iter(coordinates)
    for one, tensor in zip(descriptions, features, strict=True):
        if one.with_coordinates:
            maps = _with_keys(maps, one.tensor_stride, pack(next(arrived)), one.batch_size)
        elif one.tensor_stride == 0:
            maps = _with_keys(maps, 0, pooled_keys(one.batch_size, tensor.device), one.batch_size)
    return tuple(
        tensor if one.tensor_stride == _PLAIN else _on(maps, one.tensor_stride, tensor)
        for one, tensor in zip(descriptions, features, strict=True)
    )


def _with_keys(
    maps: CoordinateMaps | None, stride: int, keys: Tensor, batch_size: int
) -> CoordinateMaps:
    if maps is None:
        return CoordinateMaps(keys, stride, batch_size)
    maps.add(stride, keys)
    return maps


def _on(maps: CoordinateMaps | None, stride: int, features: Tensor) -> SparseTensor:
    if maps is None:
        raise InputError(
            f"features at tensor stride {stride} came without coordinates: send them, or give the "
            "coordinate maps of the mini-batch"
        )
    maps.derive(stride)
    return SparseTensor.on(maps, stride, features)

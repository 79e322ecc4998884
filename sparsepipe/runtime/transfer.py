"""How values travel between two ranks: a header, int32 coordinates, features; gradients go back.

    sending = send(transport, peer, values)
    receiving = Receiving(transport, peer, count=len(stage.inputs))     # may be posted far ahead
    values = receiving.wait()
    ...
    returning = send_gradients(transport, peer, leaf_gradients(values)) # no header: sizes are known
    of_values = ReceivingGradients(transport, peer, values).wait()

Sizes differ in every mini-batch, so a header of fixed size goes first. All sparse values of one
message share coordinate maps on both sides; a transposed convolution finds the finer voxels there,
since the skip that it is joined with comes in the same message.

    channel       message of two values at tensor strides 2 and 4, and one at 4
    header        [3 rows of numbers: dtype, stride, batch size, ..., shape]
    coordinates   [voxels at stride 2] [voxels at stride 4]          once for every stride
    features      [value 0] [value 1] [value 2]

The voxels of every stride are sent, though coarse ones could be derived from finer ones: deriving
strides 2 to 16 of 11,000 and 42,000 voxels took 1.8 and 19 ms on a core (medians of 9), sending
them takes 1.1 and 4 ms at 1 Gb/s. Deriving is faster only over links below 0.2 to 0.6 Gb/s.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepipe.engine.coordinate_maps import CoordinateMaps, pooled_keys
from sparsepipe.engine.coordinates import pack
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.runtime.values import Value, features_of, shared_maps
from systems.network.transport import Transfer, Transport
from systems.schema import InputError

HEADER, COORDINATES, FEATURES, GRADIENT = "header", "coordinates", "features", "gradient"
CHANNELS = (HEADER, COORDINATES, FEATURES, GRADIENT)
"""The channels that the transport must have been opened with."""

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)
_PLAIN = -1
"""What the header gives as the tensor stride of a plain tensor."""
_SIZES = 5
"""The most dimensions that a tensor may have; a dense volume has as many."""
_FIELDS = 5 + _SIZES


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a row of the header says of one value. A row is int64: the fields, then the shape padded
    with zeros."""

    dtype: torch.dtype
    """The type of the features."""
    tensor_stride: int
    """-1 for a plain tensor."""
    batch_size: int
    """The number of samples of a sparse tensor; 0 for a plain one."""
    with_coordinates: bool
    """Whether the voxels at this stride come with this value: the first one of each stride."""
    shape: tuple[int, ...]
    """The shape of the features, or of the plain tensor."""

    def row(self) -> list[int]:
        """The row of the header; `described` reads it again."""
        sizes = [*self.shape, *[0] * (_SIZES - len(self.shape))]
        kind = _DTYPES.index(self.dtype)
        fields = [kind, self.tensor_stride, self.batch_size, int(self.with_coordinates)]
        return [*fields, len(self.shape), *sizes]


def described(row: Sequence[int]) -> Description:
    """Read a row of the header: the inverse of `Description.row`."""
    kind, stride, batch_size, with_coordinates, dimensions, *sizes = row
    return Description(
        dtype=_DTYPES[kind],
        tensor_stride=stride,
        batch_size=batch_size,
        with_coordinates=bool(with_coordinates),
        shape=tuple(sizes[:dimensions]),
    )


def describe(values: Sequence[Value]) -> list[Description]:
    """What the header says of the values of one message.

    Raises:
        ValueError: sparse values that do not share coordinate maps, or whose rows are not sorted,
            as those of `values.take` are; a dtype that does not travel.
        InputError: voxels that do not travel.
    """
    shared_maps(values)
    if any(
        isinstance(value, SparseTensor) and value.rows is not value.features for value in values
    ):
        raise ValueError("rows of sparse values travel sorted: send what values.take returns")
    descriptions: list[Description] = []
    unsent = {_stride(value) for value in values if isinstance(value, SparseTensor)}
    unsent.discard(0)  # after global pooling there are no voxels to send
    for value in values:
        tensor, stride, batch_size = features_of(value), _PLAIN, 0
        if isinstance(value, SparseTensor):
            stride, batch_size = _stride(value), value.batch_size
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


def _stride(value: SparseTensor) -> int:
    """The tensor stride of a sparse value, or InputError where its voxels do not travel."""
    if not isinstance(value.tensor_stride, int) or value.dimension != 3:
        raise InputError(
            f"{value}: only voxels of three axes whose strides are equal travel between stages: "
            "take such layers, or train in one process"
        )
    return value.tensor_stride


class Sending:
    """The messages of one mini-batch on their way to `peer`; keeps their tensors until then."""

    def __init__(self, transport: Transport, peer: int) -> None:
        self._transport, self._peer = transport, peer
        self._transfers: list[Transfer] = []
        self._tensors: list[Tensor] = []

    def add(self, tensor: Tensor, channel: str) -> None:
        """Start sending one tensor; one without elements is not sent."""
        if tensor.numel():
            self._tensors.append(tensor.detach().contiguous())
            self._transfers.append(self._transport.isend(self._tensors[-1], self._peer, channel))

    def wait(self) -> None:
        """Block until all is sent, and let go of the tensors.

        Raises:
            TransportError: see `systems.network.transport`.
        """
        for transfer in self._transfers:
            transfer.wait()
        self._transfers, self._tensors = [], []


def send_values(transport: Transport, peer: int, values: Sequence[Value]) -> Sending:
    """Start sending the values of one mini-batch; leave their tensors unchanged until `wait`."""
    descriptions = describe(values)
    sending = Sending(transport, peer)
    rows = [description.row() for description in descriptions]
    sending.add(torch.tensor(rows, device=transport.host_device), HEADER)
    for value, description in zip(values, descriptions, strict=True):
        if isinstance(value, SparseTensor) and description.with_coordinates:
            sending.add(value.coordinates, COORDINATES)
    for value in values:
        sending.add(features_of(value), FEATURES)
    return sending


def send_gradients(transport: Transport, peer: int, gradients: Sequence[Value]) -> Sending:
    """Start sending back the gradients of values that came from `peer`, in the same order."""
    sending = Sending(transport, peer)
    for gradient in gradients:
        sending.add(features_of(gradient), GRADIENT)
    return sending


class Receiving:
    """The values of one mini-batch on their way from `peer`.

    The receive of the header is posted at once. `post` waits for the header and posts the receives
    that it announces, so that they arrive while something else is computed; `wait` does that too
    where `post` was not called. Where several objects were made for one peer, `post` must be called
    in the order in which they were made.
    """

    def __init__(self, transport: Transport, peer: int, count: int) -> None:
        """Post the receive of the header of `count` values."""
        self._transport, self._peer = transport, peer
        device = transport.host_device
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
            TransportError: see `systems.network.transport`.
        """
        self.post()
        for transfer in self._transfers:
            transfer.wait()
        return assemble(self._descriptions, self._coordinates, self._features)

    def _expect(self, shape: tuple[int, ...], dtype: torch.dtype, channel: str) -> Tensor:
        """Start receiving a tensor, and return the buffer that it will fill.

        The buffer holds the tensor once the transfer has been waited for. A tensor without elements
        is never sent, so nothing is received for it.
        """
        buffer = torch.empty(shape, dtype=dtype, device=self._transport.world.device)
        if buffer.numel():
            self._transfers.append(self._transport.irecv(buffer, self._peer, channel))
        return buffer


class ReceivingGradients:
    """The gradients of values that were sent to `peer`, on their way back.

    Their sizes are those of `values`, so that the receives can be posted far ahead.
    """

    def __init__(self, transport: Transport, peer: int, values: Sequence[Value]) -> None:
        tensors = [features_of(value) for value in values]
        self._buffers = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors]
        self._transfers = [
            transport.irecv(buffer, peer, GRADIENT) for buffer in self._buffers if buffer.numel()
        ]

    def wait(self) -> tuple[Tensor, ...]:
        """The gradient of each value's features (of a plain tensor: its own gradient), in order."""
        for transfer in self._transfers:
            transfer.wait()
        return tuple(self._buffers)


def assemble(
    descriptions: Sequence[Description], coordinates: Sequence[Tensor], features: Sequence[Tensor]
) -> tuple[Value, ...]:
    """Put the values of a message together; the sparse ones share their coordinate maps.

    Args:
        coordinates: int32 [N, 4] for each description `with_coordinates`, in order.
        features: for each description, features [N, channels] or a plain tensor.
    """
    maps: CoordinateMaps | None = None
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
    """The maps with the voxels at one more stride; new ones where there are none yet."""
    if maps is None:
        return CoordinateMaps(keys, stride, batch_size)
    maps.add(stride, keys)
    return maps


def _on(maps: CoordinateMaps | None, stride: int, features: Tensor) -> SparseTensor:
    """A sparse tensor on the voxels that came with the message."""
    assert maps is not None  # every stride's voxels are sent with the first value that has it
    return SparseTensor.on(maps, stride, features)

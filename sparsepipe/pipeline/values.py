"""What passes from layer to layer: sparse tensors, or plain ones whose first dimension is samples.

Plain are the dense twins' volumes, and what stands in for a tensor in an emulated run.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsepipe.engine.coordinate_maps import CoordinateMaps
from sparsepipe.engine.tensor import SparseTensor

Value = SparseTensor | Tensor


def features_of(value: Value) -> Tensor:
    """The features of a sparse tensor; a plain tensor itself."""
    return value.features if isinstance(value, SparseTensor) else value


def with_features(value: Value, new: Tensor) -> Value:
    """`value` on the same voxels with other features; `new` itself in place of a plain tensor."""
    return value.replace(new) if isinstance(value, SparseTensor) else new


def as_leaves(values: Sequence[Value]) -> tuple[Value, ...]:
    """The same values as the start of a new graph, which asks for their gradients."""
    return tuple(
        with_features(value, features_of(value).detach().requires_grad_()) for value in values
    )


def leaf_gradients(values: Sequence[Value]) -> tuple[Value, ...]:
    """The gradients that `as_leaves` have got, on their voxels; zeros where there are none."""
    grads = ((value, features_of(value).grad) for value in values)
    return tuple(
        with_features(value, torch.zeros_like(features_of(value)) if grad is None else grad)
        for value, grad in grads
    )


def backward_through(outputs: Sequence[Value], gradients: Sequence[Tensor | None]) -> None:
    """Backward through a stage from the gradients of its outputs; None where there is none."""
    pairs = [
        (features_of(output), gradient)
        for output, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and features_of(output).requires_grad
    ]
    if not pairs:  # layers without parameters on the network's input
        return
    torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])


def samples_of(value: Value) -> int:
    """How many samples there are."""
    return value.batch_size if isinstance(value, SparseTensor) else len(value)


def take_samples(values: Sequence[Value], samples: range) -> tuple[Value, ...]:
    """Some consecutive samples of every value, differentiably, numbered from 0 on.

    Sparse values come sorted, whatever the order of their rows was, and are views if they were
    sorted before. They must share their coordinate maps; what is taken does too.

    Raises:
        ValueError: no such samples, or maps that are not shared.
    """
    for value in values:
        if not 0 <= samples.start < samples.stop <= samples_of(value):
            raise ValueError(f"samples {samples} of {samples_of(value)}")
    maps = shared_maps(values)
    taken = None if maps is None else maps.take(samples)
    parts: list[Value] = []
    for value in values:
        if not isinstance(value, SparseTensor) or taken is None:
            parts.append(features_of(value)[samples.start : samples.stop])
            continue
        rows = value.maps.rows(value.tensor_stride, samples)
        parts.append(SparseTensor.on(taken, value.tensor_stride, value.rows[rows]))
    return tuple(parts)


def join_samples(parts: Sequence[Sequence[Value]]) -> tuple[Value, ...]:
    """The samples of all parts, one part after the other, differentiably.

    This is the inverse of `take_samples`.

    Raises:
        ValueError: sparse values of a part do not share their coordinate maps.
    """
    if len(parts) == 1:
        return tuple(parts[0])
    maps = [found for part in parts if (found := shared_maps(part)) is not None]
    joined = CoordinateMaps.join(maps) if maps else None
    values: list[Value] = []
    for pieces in zip(*parts, strict=True):
        features = torch.cat(
            [piece.rows if isinstance(piece, SparseTensor) else piece for piece in pieces]
        )
        first = pieces[0]
        if isinstance(first, SparseTensor) and joined is not None:
            values.append(SparseTensor.on(joined, first.tensor_stride, features))
        else:
            values.append(features)
    return tuple(values)


def shared_maps(values: Sequence[Value]) -> CoordinateMaps | None:
    """The coordinate maps of all sparse values; None where all are plain.

    Raises:
        ValueError: they are not the same object.
    """
    maps = [value.maps for value in values if isinstance(value, SparseTensor)]
    if any(other is not maps[0] for other in maps):
        raise ValueError("sparse values of one mini-batch must share their coordinate maps")
    return maps[0] if maps else None

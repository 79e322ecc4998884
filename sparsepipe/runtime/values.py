"""Values, which pass from layer to layer.

A value is a sparse tensor, or a plain tensor whose first dimension is the samples. Plain are the
volumes of a dense twin and the stand-ins of an emulated run.
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


def tensors_of(values: Sequence[Value]) -> list[Tensor]:
    """All tensors that hold values: their features, and the voxels at every stride."""
    features = [features_of(value) for value in values]
    maps = shared_maps(values)
    return features if maps is None else features + [maps.keys(s) for s in maps.strides]


def with_features(value: Value, new: Tensor) -> Value:
    """The value with other features on the same voxels; for a plain tensor, `new` itself."""
    return value.replace(new) if isinstance(value, SparseTensor) else new


def as_leaves(values: Sequence[Value]) -> tuple[Value, ...]:
    """The same values, cut off from the graph that made them, as leaves that gather gradients.

    Whole numbers, such as the words that an embedding reads, gather none.
    """
    leaves = [(value, features_of(value).detach()) for value in values]
    return tuple(
        with_features(value, leaf.requires_grad_(leaf.is_floating_point()))
        for value, leaf in leaves
    )


def leaf_gradients(values: Sequence[Value]) -> tuple[Value, ...]:
    """The gradients that values from `as_leaves` have gathered; zeros where there are none."""
    pairs = ((value, features_of(value).grad) for value in values)
    return tuple(
        with_features(value, torch.zeros_like(features_of(value)) if grad is None else grad)
        for value, grad in pairs
    )


def backward_through(outputs: Sequence[Value], gradients: Sequence[Tensor | None]) -> None:
    """Go backward through a stage from the gradients of its outputs, None where there is none."""
    pairs = [
        (features_of(output), gradient)
        for output, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and features_of(output).requires_grad
    ]
    if not pairs:  # the stage has no parameters, and its input needs no gradient
        return
    torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])


def samples_of(value: Value) -> int:
    """The number of samples of a value."""
    return value.batch_size if isinstance(value, SparseTensor) else len(value)


def take_samples(values: Sequence[Value], samples: range) -> tuple[Value, ...]:
    """Take consecutive samples of every value, differentiably, and number them from 0.

    The rows of the sparse values that are returned are sorted; they are views where the rows were
    sorted before. Sparse values must share their coordinate maps, and those returned do too.

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
    maps = [of_part for part in parts if (of_part := shared_maps(part)) is not None]
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
    """The coordinate maps that all sparse values share; None where all values are plain.

    Raises:
        ValueError: they are not the same object.
    """
    maps = [value.maps for value in values if isinstance(value, SparseTensor)]
    if any(other is not maps[0] for other in maps):
        raise ValueError("sparse values of one mini-batch must share their coordinate maps")
    return maps[0] if maps else None

"""Tensors from what users have: tensors, arrays of any library that numpy reads, and lists."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from systems.schema import InputError

Numbers = Tensor | np.ndarray | Sequence[Any]
"""A tensor, or anything that numpy.asarray turns into numbers."""

_HARDLY_SUPPORTED = (torch.uint16, torch.uint32, torch.uint64)
"""Dtypes that most of torch's functions refuse."""


def as_tensor(name: str, values: Numbers) -> Tensor:
    """Turn numbers into a tensor. Arrays of any layout and byte order, and lists, are copied;
    tensors are returned as they are. `name` says in errors what they are.

    Raises:
        InputError: they are not real numbers.
    """
    if not isinstance(values, Tensor):
        values = _copied(name, values)
    if values.is_complex():
        raise InputError(
            f"{name}: {values.dtype} is no type of real numbers: give a tensor or an array of them"
        )
    if values.dtype not in _HARDLY_SUPPORTED:
        return values
    whole = values.long()
    if bool((whole < 0).any()):
        raise InputError(f"{name}: numbers of {values.dtype} beyond int64: give smaller ones")
    return whole


def int32_tensor(name: str, values: Tensor) -> Tensor:
    """Whole numbers as int32; those of floating point are rounded down first.

    Raises:
        InputError: some are NaN, or beyond what int32 holds.
    """
    values = as_tensor(name, values)
    whole = values.double().floor() if values.is_floating_point() else values.long()
    bounds = torch.iinfo(torch.int32)
    held = (whole >= bounds.min) & (whole <= bounds.max)
    if not bool(held.all()):
        raise InputError(
            f"{name}: {int((~held).sum())} numbers are NaN or beyond what int32 holds: remove "
            "them, or centre the cloud"
        )
    return whole.int()


def _copied(name: str, values: np.ndarray | Sequence[Any]) -> Tensor:
    """A tensor with a copy of an array or a list, or InputError if they are not real numbers."""
    if isinstance(values, np.ma.MaskedArray) and values.mask.any():
        raise InputError(f"{name}: an array with masked numbers: leave these out")
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "buif":
            raise TypeError(f"{array.dtype} is no type of real numbers")
        kind = np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
        return torch.tensor(np.asarray(array, kind, order="C"))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}: give a tensor or an array of numbers") from None


def features_tensor(name: str, features: Numbers) -> Tensor:
    """Features as a tensor: tensors of floating point keep their dtype, all others become torch's
    default dtype."""
    values = as_tensor(name, features)
    keeps = isinstance(features, Tensor) and values.is_floating_point()
    return values if keeps else values.to(torch.get_default_dtype())


def labels_tensor(name: str, values: Numbers) -> Tensor:
    """Labels of any dtype and shape as int64, or InputError if they are not whole numbers."""
    labels = as_tensor(name, values)
    if labels.is_floating_point():
        whole = (labels.abs() < 2.0**63) & (labels == labels.trunc())
        if not bool(whole.all()):
            raise InputError(
                f"{name} are {labels.dtype} {list(labels.shape)}, {int((~whole).sum())} of them "
                "not whole, or beyond int64: give whole numbers"
            )
    return labels.long()

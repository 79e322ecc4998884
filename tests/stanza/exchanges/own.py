"""Exchanges of one's own, as a user may write them."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future


class Identity:
    """A codec that loses nothing."""

    def encode(self, values: Tensor) -> list[Tensor]:
        return [values]

    def decode(self, messages: Sequence[Tensor], size: int) -> Tensor:
        return messages[0]


OBJECT = Identity()


def mean_hook(process_group: dist.ProcessGroup, bucket: dist.GradBucket) -> "Future[Tensor]":
    """A hook that does what DDP does without one."""
    flat = bucket.buffer().div_(process_group.size())
    work = dist.all_reduce(flat, group=process_group, async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


class NoDecode:
    """Lacks a method."""

    def encode(self, values: Tensor) -> list[Tensor]:
        return [values]


class Unsteady(Identity):
    """Sends what is not zero: messages of any size."""

    def encode(self, values: Tensor) -> list[Tensor]:
        return [values[values != 0]]

    def decode(self, messages: Sequence[Tensor], size: int) -> Tensor:
        return messages[0].new_zeros(size)


class Single(Identity):
    """Returns a tensor where a list is asked for."""

    def encode(self, values: Tensor) -> list[Tensor]:
        return values  # type: ignore[return-value]


class Short(Identity):
    """Loses a value."""

    def decode(self, messages: Sequence[Tensor], size: int) -> Tensor:
        return messages[0][1:]


class Failing(Identity):
    """Divides by zero."""

    def encode(self, values: Tensor) -> list[Tensor]:
        raise ZeroDivisionError("no values")


def make_nothing(process_group: dist.ProcessGroup) -> None:
    """A factory that makes no hook."""


def make_two(process_group: dist.ProcessGroup) -> object:
    """A factory whose hook takes an argument too many."""
    return mean_hook


def no_future(process_group: dist.ProcessGroup, bucket: dist.GradBucket) -> Tensor:
    """A hook that waits, and returns a tensor."""
    return torch.zeros_like(bucket.buffer())

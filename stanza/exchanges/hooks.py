"""Hooks of torch that keep something from step to step: PowerSGD and post-local SGD."""

import warnings
from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import (
    PostLocalSGDState,
    post_localSGD_hook,
)
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.algorithms.model_averaging.utils import average_parameters
from torch.futures import Future

from stanza.exchanges.find import Hook

NO_GRADIENT = 1e-8
"""Keeps PowerSGD from dividing by the norm of gradients that are all zero."""


def powersgd(process_group: dist.ProcessGroup, *, rank: int = 2, start: int = 2) -> Hook:
    """Send every layer's gradient as two thin matrices (PowerSGD, arXiv 1905.13727).

    Args:
        rank: the columns of each of the two matrices.
        start: the number of first steps that exchange all gradients, 2 or more.
    """
    state = PowerSGDState(
        process_group,
        matrix_approximation_rank=rank,
        start_powerSGD_iter=start,
        orthogonalization_epsilon=NO_GRADIENT,
    )

    def hook(bucket: dist.GradBucket) -> "Future[Tensor]":
        # Each of its three collectives begins when the one before has ended, in a thread of gloo.
        # Were the next bucket's begun meanwhile, ranks would begin them in different orders: they
        # would wait for each other for ever.
        future = powerSGD_hook(state, bucket)
        future.wait()
        return future

    return hook


class PostLocalSgd:
    """Exchange all gradients in the first steps; then train alone, and average the parameters now
    and then (post-local SGD, arXiv 1808.07217; with `start` 0 it is local SGD)."""

    def __init__(
        self, process_group: dist.ProcessGroup, *, period: int = 4, start: int = 8
    ) -> None:
        """Average the parameters in step `start` and every `period` steps after it."""
        self._state = PostLocalSGDState(
            process_group, None, start, post_local_gradient_allreduce=False
        )
        with warnings.catch_warnings():  # torch finds a period of 1 wasteful
            warnings.simplefilter("ignore", UserWarning)
            self._averager = PeriodicModelAverager(period, start, process_group)
        self._group = process_group

    def __call__(self, bucket: dist.GradBucket) -> "Future[Tensor]":
        """The mean gradient in the first steps, and this rank's own later."""
        return post_localSGD_hook(self._state, bucket)

    def after_step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the parameters, if this step is one that does."""
        self._averager.average_parameters(parameters)

    def collect(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the parameters: the trained model is their mean."""
        average_parameters(iter(list(parameters)), self._group)

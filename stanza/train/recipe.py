"""How a model is trained, and what each rank needs to know of a training."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from stanza.exchanges.codec import CodecFactory
from stanza.exchanges.find import NamedExchange
from stanza.layout import Layout
from stanza.options import PsConsistency
from stanza.workers.loss import Loss, loss_sum
from stanza.workers.optimizers import OptimizerFactory
from systems.network.distributed import World
from systems.network.transport import Transport
from systems.runs.state import State
from systems.runs.trace import Tracer


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained, whatever the layout."""

    optimizer: OptimizerFactory
    loss_sum: Loss = loss_sum
    """The loss, summed over the samples."""
    clip_norm: float | None = None
    """The largest Euclidean norm of the gradients of the whole model; None: any."""
    cut_dtype: torch.dtype | None = None
    """What activations and their gradients travel in; None: what the layers compute in."""
    ps_pipelined: bool = False
    """Whether parameter servers are pipelined; else they are blocking."""
    ps_consistency: PsConsistency = "synchronous"
    """How far workers of parameter servers may be ahead of each other."""
    ps_staleness: int = 0
    """By how many updates at most, where it is stale-synchronous."""
    exchange: NamedExchange | None = None
    """What travels when gradients are exchanged; None: all of them as they are."""
    message_scale: float = 1.0
    """See `stanza.train.workload.Workload`."""

    def codec(self) -> CodecFactory | None:
        """What makes the codecs of parameter servers; None: all travels as it is."""
        return None if self.exchange is None else self.exchange.codec()


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything about a training that a rank needs, whatever its role."""

    layout: Layout
    world: World
    transport: Transport
    model: nn.Module
    recipe: Recipe
    tracer: Tracer
    state: State
    """The tensors of this rank that a checkpoint must hold. Every part of a role adds its own."""
    collecting: list[Callable[[], None]] = field(default_factory=list)
    """What this rank has to do, with the others, before rank 0 has the trained model. Parts of a
    role whose copies of the model may differ add it."""
    ending: list[Callable[[], None]] = field(default_factory=list)
    """What this rank has to do before connections are closed, likewise."""

    @property
    def stale(self) -> bool:
        """Whether parameter servers serve each worker at its own pace."""
        return self.recipe.ps_consistency != "synchronous"

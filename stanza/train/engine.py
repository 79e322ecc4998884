"""One rank's part of a training: what the training loop and the library run alike.

engine = Engine(model, layout, world, recipe, image_shape=(3, 224, 224))
metrics = engine.step(batch)        # once per step, on all ranks together
engine.collect()                    # the model on rank 0 is now the whole trained one
engine.close()
"""

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor, nn

from stanza.cut.separate import Parts, separate
from stanza.layout import Layout
from stanza.train.batches import LocalBatch
from stanza.train.recipe import Recipe, Training
from stanza.train.roles import step_function
from stanza.workers.clipping import CONV_NORM, FC_NORM, SERVER_NORM
from stanza.workers.columns import COLUMNS, collect
from stanza.workers.conv_worker import ACTIVATION, GRADIENT, LABEL
from stanza.workers.fc_chain import linears
from stanza.workers.parameter_server import PULL, PUSH, STALENESS
from systems.network.distributed import World
from systems.network.open_transport import open_transport
from systems.network.transport import Transport
from systems.runs.state import State
from systems.runs.trace import Tracer

STATE = "state"
"""The transport's channel for trained parameters, which are collected after training."""
CHANNELS = {"stanza": (ACTIVATION, GRADIENT, LABEL, COLUMNS, STATE), "ps": (PUSH, PULL)}
"""The transport's channels by scheme; the others need none."""
NORMS = {"stanza": (CONV_NORM, FC_NORM), "ps": (SERVER_NORM,)}
"""Those that are needed for clipping, too."""


class Engine:
    """This rank's part of the model, its transport, and what it does in a step."""

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        world: World,
        recipe: Recipe,
        *,
        image_shape: Sequence[int],
        transport: str = "torch",
        tracer: Tracer | None = None,
    ) -> None:
        """Take the part of `model` that belongs to this rank's role. All ranks call this together.

        Args:
            model: the whole model, with the same parameters on every rank; it is trained in place.
            image_shape: channels, height and width of an image.

        Raises:
            InputError: the model cannot be separated, or not trained in this way.
        """
        self.model, self.layout, self.world = model, layout, world
        channels = CHANNELS.get(layout.scheme, ())
        if recipe.clip_norm is not None:
            channels += NORMS.get(layout.scheme, ())
        if recipe.ps_consistency != "synchronous":
            channels += (STALENESS,)
        self._aside: list[Tensor] = []
        self._parts = _separated(model, layout, image_shape)
        self.transport: Transport = open_transport(transport, world, channels)
        self.state = State(model, world.rank)
        replicas = layout.fc_parallel == "replicas"
        self._groups = [
            world.group(layout.data_ranks),
            world.group(layout.ranks("fc") if replicas else ()),  # columns sum no gradients
        ]
        self._training = Training(
            layout=layout,
            world=world,
            transport=self.transport,
            model=model,
            recipe=recipe,
            tracer=tracer or Tracer.off(),
            state=self.state,
        )
        self._step = step_function(self._training, self._parts, *self._groups)

    def step(self, batch: LocalBatch) -> dict[str, float]:
        """Do this rank's part of a step; returns its metrics, with units in their names.

        Ranks with data tell their `samples`; those that compute losses tell the `loss_sum` of
        their samples.

        Raises:
            TransportError: another rank is gone, or does not answer.
        """
        return self._step(batch)

    def collect(self) -> None:
        """Send rank 0 what its model lacks, such as the trained FC part; it is complete then.

        Where the ranks' copies of the model differ, theirs are put aside: `go_on` brings them back.
        """
        if self._training.collecting:
            self._aside = [p.detach().clone() for p in self.model.parameters()]
        for collect_part in self._training.collecting:
            collect_part()
        if self._parts is None:
            return
        # The FC part: every column from its holder, or all of it from the first replica.
        ranks, target, me = self.layout.ranks("fc"), 0, self.world.rank
        if self.layout.fc_parallel == "columns":
            collect(self._parts, self.transport, ranks, target, on=STATE)
            return
        source = ranks[0]
        if source == target or me not in (source, target):
            return
        for tensor in (*self._parts.fc.parameters(), *self._parts.fc.buffers()):
            if me == source:
                self.transport.isend(tensor.detach().contiguous(), target, STATE).wait()
            else:
                message = tensor.detach().contiguous()
                self.transport.irecv(message, source, STATE).wait()
                tensor.detach().copy_(message)

    def go_on(self) -> None:
        """Train on after `collect`, from this rank's own copy of the model."""
        for parameter, before in zip(self.model.parameters(), self._aside, strict=False):
            parameter.detach().copy_(before)
        self._aside = []

    def close(self) -> None:
        """Free the connections, once no message is on its way. All ranks close together."""
        for end in self._training.ending:
            end()
        self.transport.close()
        for group in self._groups:
            if group is not None:
                dist.destroy_process_group(group)


def _separated(model: nn.Module, layout: Layout, image_shape: Sequence[int]) -> Parts | None:
    """Separate the network, if that is the scheme."""
    if layout.scheme != "stanza":
        return None
    parts = separate(model, image_shape)
    if layout.fc_parallel == "columns":
        linears(parts, len(layout.ranks("fc")))  # if one rank refuses the network, all do
    return parts

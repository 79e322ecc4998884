"""A model that all ranks train together: its batches, its steps, and the whole of it again."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stanza.layout import Layout
from stanza.library.loader import Loader, Samples
from stanza.library.planning import lay_out
from stanza.models.dry_run import materialise
from stanza.options import Options
from stanza.train.batches import LocalBatch
from stanza.train.engine import Engine
from stanza.train.recipe import Recipe
from stanza.train.trial import freeze, unreached
from stanza.workers.exchange import trainable
from stanza.workers.optimizers import check_by_value
from stanza.workers.targets import Targets, check_targets
from systems.arguments import as_arguments, named_as_arguments
from systems.data.dtypes import check_precision
from systems.data.pinned import moved
from systems.modes import evaluating
from systems.network.distributed import World
from systems.processes.waiting import waiting
from systems.runs.state import named_tensors
from systems.schema import InputError

T = TypeVar("T")


class Trained:
    """What `stanza.separate` returns: this rank's part in the training of a model."""

    def __init__(
        self,
        model: nn.Module,
        options: Options,
        recipe: Recipe,
        world: World,
        *,
        seed: int,
        image_shape: Sequence[int] | None,
        cluster: str | None,
        narrow_labels: bool,
    ) -> None:
        """See `stanza.library.separate.separate`.

        Args:
            narrow_labels: whether targets are the numbers of classes, which travel as int32.
        """
        self.model = model.to(world.device)
        """The model. On rank 0 it is complete after `evaluate` and `state_dict`."""
        self.rank, self.world_size, self.device = world.rank, world.world_size, world.device
        self.reason = ""
        """Why the ranks have their roles, in words."""
        self._options, self._recipe, self._world = options, recipe, world
        self._seed, self._cluster, self._narrow_labels = seed, cluster, narrow_labels
        self._image_shape = None if image_shape is None else tuple(image_shape)
        self._layout: Layout | None = None
        self._engine: Engine | None = None
        self._epochs = 0
        self._sizes: list[int] | None = None
        """The samples of every rank in the batch that the loader has just yielded."""
        if self._image_shape is not None and "auto" not in (
            options.fc_workers,
            options.fc_parallel,
            options.fc_placement,
        ):
            self._lay_out(self._image_shape, None)

    @property
    def layout(self) -> Layout:
        """Who has which role.

        Raises:
            InputError: that is not decided before the first batch of the loader.
        """
        if self._layout is None:
            raise InputError(
                "layout: is not decided before `loader` has seen the first sample; use that, or "
                "give image_shape and fc_workers as a number"
            )
        return self._layout

    @property
    def has_data(self) -> bool:
        """Whether this rank takes samples. The others take batches of none."""
        return self.rank in self.layout.data_ranks

    def loader(
        self,
        dataset: Samples,
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        **reading: Any,
    ) -> Iterator[tuple[Tensor, Targets]]:
        """Yield this rank's share of every batch of an epoch: images [b, C, H, W] and targets.

        Every call is the next epoch, which has an order of its own. All ranks go through all
        batches together, and the last one may be smaller. Ranks without data get tensors of no
        samples, and read a single sample themselves.

        Args:
            dataset: numbered samples, each an image [C, H, W] and its target, as torch has them.
                It must be the same on every rank.
            batch_size: the samples of a batch over all ranks.
            shuffle: whether an epoch has an order of its own, which the seed decides.
            drop_last: whether to leave out the last batch if it is smaller.
            reading: arguments of torch's DataLoader, such as num_workers and collate_fn.

        Raises:
            InputError: the data set is of another kind or has too few samples, or there are too few
                ranks.
        """
        loader = Loader(dataset, batch_size, shuffle=shuffle, drop_last=drop_last, **reading)
        if self._layout is None:
            self._lay_out(tuple(loader.images.shape[1:]), batch_size)
        ranks, epoch = self.layout.data_ranks, self._epochs
        self._epochs += 1
        weights = self._options.weights(len(ranks))
        return self._batches(
            loader.batches(ranks, self.rank, weights=weights, seed=self._seed, epoch=epoch)
        )

    def _batches(
        self, batches: Iterator[tuple[list[int], Tensor, Targets]]
    ) -> Iterator[tuple[Tensor, Targets]]:
        """Yield batches on this rank's device, and remember how many samples every rank has."""
        try:
            for of_data_ranks, images, targets in batches:
                of_rank = dict(zip(self.layout.data_ranks, of_data_ranks, strict=True))
                self._sizes = [of_rank.get(rank, 0) for rank in range(self.world_size)]
                yield moved((images, targets), self.device)
        finally:
            self._sizes = None

    def step(self, images: Tensor, targets: Targets) -> float:
        """Train one step; returns the mean loss over the samples of all ranks, on every rank.

        All ranks call this together. Batches may come from elsewhere than `loader`; then the ranks
        first tell each other how many samples they have, and ranks without data give tensors of no
        samples.

        Args:
            images: this rank's images [b, C, H, W].
            targets: their targets: a tensor [b, ...], or tuples, lists and dictionaries of such.

        Raises:
            InputError: the batch is not of this rank's share, or the model cannot be trained so.
            TransportError: another rank is gone, or does not answer.
        """
        sizes = self._sizes_of(images)
        check_targets(targets, len(images))
        check_precision(images, self.model, "images")
        if self._narrow_labels:
            targets = targets.to(torch.int32)
        if self._engine is None:
            self._engine = self._open(images, targets)
        metrics = self._engine.step(LocalBatch(images, targets, sizes))
        total = torch.tensor(metrics.get("loss_sum", 0.0), dtype=torch.float64, device=self.device)
        with self._world.meeting("the sum of the losses"):
            dist.all_reduce(total)
        return total.item() / sum(sizes)

    def evaluate(self, metric: Callable[[nn.Module], T]) -> T:
        """Call `metric` with the whole model on rank 0, in evaluation mode; returns on every rank
        what it returns. All ranks call this together."""
        self._collect()
        from_rank_0: list[Any] = [None]
        if self.rank == 0:
            with evaluating(self.model), torch.no_grad():
                from_rank_0 = [metric(self.model)]
        with waiting("rank 0, which evaluates", [0] if self.rank else []):
            dist.broadcast_object_list(from_rank_0, src=0)
        result: T = from_rank_0[0]
        return result

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters and buffers of the whole model by their own names, on rank 0; nothing on
        the others. All ranks call this together.

        What batch normalisation has seen is that of rank 0.
        """
        self._collect()
        if self.rank != 0:
            return {}
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def close(self) -> None:
        """Free the connections between the ranks. All ranks close together."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> "Trained":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None:
            self.close()

    def _collect(self) -> None:
        """Complete the model of rank 0."""
        if self._engine is not None:
            self._engine.collect()

    def _sizes_of(self, images: Tensor) -> list[int]:
        """The samples of every rank in this step."""
        sizes, self._sizes = self._sizes, None
        if sizes is None:
            everyone = torch.zeros(self.world_size, dtype=torch.int64, device=self.device)
            everyone[self.rank] = len(images)
            with self._world.meeting("the sizes of the local batches"):
                dist.all_reduce(everyone)
            sizes = everyone.tolist()
        with_data = self.layout.data_ranks
        if len(images) != sizes[self.rank] or (len(images) and self.rank not in with_data):
            most = sizes[self.rank] if self.rank in with_data else 0
            raise InputError(
                f"step: {len(images)} samples on {self._world.name(self.rank)}, whose share is "
                f"{most}; give the batch that the loader yields"
            )
        if not sum(sizes):
            raise InputError("step: no rank has a sample; give at least one")
        return sizes

    def _lay_out(self, image_shape: tuple[int, ...], batch_size: int | None) -> None:
        """Decide who does what, when the shape of the images is known."""
        if self._image_shape not in (None, image_shape):
            raise InputError(
                f"image_shape={self._image_shape}: the first sample has {image_shape}; give that"
            )
        self._image_shape = image_shape
        materialise(self.model, image_shape)
        samples = batch_size or self._options.samples_per_step(self.world_size)
        options = dataclasses.replace(self._options, global_batch_size=samples)
        local = (max(1, samples // self.world_size), *image_shape)
        with named_as_arguments():
            options, layout, self.reason = lay_out(
                options,
                self._world,
                self.model,
                local,
                self._cluster,
                servers_fit=self._servers_fit(),
            )
        pipelined = options.ps_mode == "pipelined"
        self._recipe = dataclasses.replace(self._recipe, ps_pipelined=pipelined)
        self._layout, self._world = layout, self._world.with_roles(layout.roles)

    def _servers_fit(self) -> bool:
        """Whether pipelined parameter servers, which hold slices, can train the model."""
        try:
            check_by_value(self._recipe.optimizer, trainable(self.model), "servers")
        except InputError:
            return False
        return self._recipe.clip_norm is None

    def _open(self, images: Tensor, targets: Targets) -> Engine:
        """Prepare for the first step: equal weights everywhere, and this rank's part of them."""
        assert self._image_shape is not None  # the layout is decided
        self._freeze_unreached(images, targets)
        with self._world.meeting("the weights of rank 0"):
            for tensor in named_tensors(self.model).values():
                message = tensor.detach().contiguous()
                dist.broadcast(message, src=0)
                tensor.detach().copy_(message)
        torch.manual_seed(self._seed * 1000 + self.rank + 1)  # dropout masks differ between ranks
        with named_as_arguments():
            return Engine(
                self.model, self.layout, self._world, self._recipe, image_shape=self._image_shape
            )

    def _freeze_unreached(self, images: Tensor, targets: Targets) -> None:
        """Freeze the parameters that the loss does not reach.

        Rank 0, which always has samples, finds out which they are.
        """
        from_rank_0: list[Any] = [None]
        failure: InputError | None = None
        if self.rank == 0:
            try:
                from_rank_0 = [unreached(self.model, images, targets, self._recipe.loss_sum)]
            except InputError as error:
                failure, from_rank_0 = error, [as_arguments(str(error))]
        with waiting("rank 0, which tries the first batch", [0] if self.rank else []):
            dist.broadcast_object_list(from_rank_0, src=0)
        (names,) = from_rank_0
        if isinstance(names, str):
            raise InputError(names) from failure
        freeze(self.model, names)

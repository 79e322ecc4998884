"""Checkpoints of a run: made every so many steps, whole or not at all, and read to go on.

checkpoints/step-00000100/     every rank's tensors (systems.runs.part_files), and a manifest
checkpoints/final/             the same after the last step: the trained model

All ranks write into a temporary folder, which rank 0 renames once all of it is on the disk. On
several nodes the folder must be one that all of them see.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from systems import disk
from systems.disk import DiskError
from systems.network.distributed import World
from systems.processes.waiting import waiting
from systems.runs import manifest
from systems.runs.manifest import FINAL, SoundCheckpoint
from systems.runs.part_files import fill, write, written
from systems.runs.parts import Named
from systems.runs.state import MODEL, State, named_tensors
from systems.schema import InputError

PARTIAL, ASIDE = "partial-", "aside-"


class Checkpoints:
    """The checkpoints of one run: the one that it goes on from, and those that it makes."""

    def __init__(
        self,
        world: World,
        folder: Path,
        *,
        every: int,
        keep: int,
        layout: str = "",
        earlier: SoundCheckpoint | None = None,
    ) -> None:
        """Say what is saved, and where the run goes on.

        Args:
            folder: where checkpoints are made.
            every: steps between two checkpoints; 0: none are made.
            keep: how many of the last checkpoints stay.
            layout: world size and who does what, in words.
            earlier: the checkpoint that the run goes on from; None: it begins at its beginning.
        """
        self._world, self._folder, self._every, self._keep = world, folder, every, keep
        self._layout, self._earlier = layout, earlier

    @classmethod
    def off(cls, world: World) -> "Checkpoints":
        """Make no checkpoints, and begin the run at its beginning."""
        return cls(world, Path(), every=0, keep=0)

    @property
    def first_step(self) -> int:
        """The first step that is left to do."""
        return self._earlier.manifest.step if self._earlier else 0

    def first_batch(self, samples_per_step: int) -> int:
        """The number of the first batch to take, so that no sample is seen twice.

        It is not `first_step` where batches had another size before.
        """
        seen = self._earlier.manifest.samples_seen if self._earlier else 0
        return -(-seen // samples_per_step)

    def segments(self, steps: int) -> Iterator[tuple[int, int]]:
        """The steps that are left, cut where checkpoints are made: (first, end) of each segment.

        Args:
            steps: the number of steps of the whole run.

        Raises:
            InputError: that many steps are done already.
        """
        begin = self.first_step
        if begin >= steps:
            raise InputError(
                f"--resume: the checkpoint is of step {begin}, and the run has only {steps} steps; "
                "give more steps, or --resume never"
            )
        while begin < steps:
            end = min(steps, begin - begin % self._every + self._every) if self._every else steps
            yield begin, end
            begin = end

    def restore_model(self, model: nn.Module) -> None:
        """Load all parameters and buffers of the whole model, whichever rank has saved them.

        Raises:
            InputError: the checkpoint is of another model.
        """
        if self._earlier is None:
            return
        saved = written(self._earlier.path)
        tensors = named_tensors(model)
        for name, tensor in tensors.items():
            of = saved.get(f"{MODEL}/{name}")
            if of is None or of.shape != tensor.shape:
                raise InputError(
                    f"--resume: {self._earlier.path} has no {name} of shape {list(tensor.shape)}: "
                    "it is of another model; give --resume never"
                )
        named: Named = {f"{MODEL}/{name}": tensor.detach() for name, tensor in tensors.items()}
        fill(named, self._earlier.path)

    def restore(self, state: State) -> None:
        """Load the state of the optimizers, after `restore_model`.

        Where every rank has the part of the model that it had, its random state and its statistics
        of batch normalisation are loaded as well.
        """
        if self._earlier is None:
            return
        saved = written(self._earlier.path)
        fill(state.optimizer_tensors(saved), self._earlier.path)
        own = state.own()
        if self._earlier.manifest.layout == self._layout and own.keys() <= saved.keys():
            fill(own, self._earlier.path)
            state.set_random_state(own)

    def save(self, step: int, steps: int, state: State, samples_seen: int) -> None:
        """Save a checkpoint, if it is time for one.

        All ranks must call this together, with no message on its way between them.

        Args:
            step: how many steps are done.
            steps: how many the whole run has; after the last one the trained model is saved.
            state: what this rank has to save.
            samples_seen: the samples that all ranks have seen in all steps: the position in the
                data.

        Raises:
            DiskError: a rank could not write; all ranks raise it.
            RuntimeError: a rank is gone.
        """
        if not self._every or (step < steps and step % self._every):
            return
        with waiting(f"all ranks at the checkpoint after step {step}"):
            partial = self._begin(step)
            try:
                self._together(step, lambda: write(state.tensors(), partial))
                self._together(step, lambda: self._commit(partial, step, steps, samples_seen))
            except DiskError:
                if self._world.rank == 0:
                    shutil.rmtree(partial, ignore_errors=True)
                raise

    def _begin(self, step: int) -> Path:
        """Make a temporary folder on rank 0; returns its path on all ranks.

        Raises:
            RuntimeError: a rank does not see the folder.
        """
        from_rank_0: list[Any] = [None]

        def make() -> None:
            if self._world.rank == 0:
                self._folder.mkdir(parents=True, exist_ok=True)
                from_rank_0[0] = tempfile.mkdtemp(prefix=PARTIAL, dir=self._folder)

        self._together(step, make)
        dist.broadcast_object_list(from_rank_0, src=0)
        partial = Path(from_rank_0[0])
        if not partial.is_dir():
            raise RuntimeError(
                f"{self._world.name(self._world.rank)}: does not see {partial}, which rank 0 made; "
                "with --checkpoint-every give an --out that all nodes share"
            )
        return partial

    def _commit(self, partial: Path, step: int, steps: int, samples_seen: int) -> None:
        """Give the temporary folder its own name, and remove the oldest checkpoints. Rank 0 does it
        alone."""
        if self._world.rank:
            return
        path = self._folder / (manifest.name(step) if step < steps else FINAL)
        manifest.commit(partial, path, step=step, samples_seen=samples_seen, layout=self._layout)
        for old in manifest.steps_in(self._folder)[self._keep :]:
            shutil.rmtree(old)

    def _together(self, step: int, work: Callable[[], None]) -> None:
        """Do this rank's part of a checkpoint, `work`.

        Raises:
            DiskError: on all ranks, if any of them could not write.
        """
        failure = None
        try:
            work()
        except OSError as error:
            failure = disk.reason(error)
        everyone: list[Any] = [None] * self._world.world_size
        dist.all_gather_object(everyone, failure)
        reason = next((each for each in everyone if each is not None), None)
        if reason is not None:
            raise DiskError(
                f"{reason}: the checkpoint after step {step} could not be written in "
                f"{self._folder}",
                everywhere=True,
            )


def open_checkpoints(
    world: World, folder: Path, *, every: int, keep: int, layout: str, resume: str
) -> Checkpoints:
    """Open the checkpoints of a run, and find the one to go on from. All ranks must call this.

    Rank 0 looks, prints what it has found, and tells the others.

    Args:
        folder: where the checkpoints of the run are.
        every: steps between two checkpoints; 0: none are made.
        keep: how many of the last checkpoints stay.
        layout: world size and who does what, in words.
        resume: "never" begins anew. "auto" goes on from the newest sound checkpoint of `folder`, if
            there is one. A path does the same, and names where to go on from if there is none; see
            `systems.runs.manifest.find`.

    Raises:
        InputError: there is no sound checkpoint at that path.
        DiskError: `folder` cannot be written.
    """
    from_rank_0: list[Any] = [None]
    if world.rank == 0:
        try:
            from_rank_0 = [_first(folder, resume)]
        except InputError as error:
            from_rank_0 = [error]
        except OSError as error:
            text = f"{disk.reason(error)}: nothing can be written in {folder}"
            from_rank_0 = [DiskError(text, everywhere=True)]
    with waiting("rank 0, which looks for a checkpoint to go on from"):
        dist.broadcast_object_list(from_rank_0, src=0)
    (earlier,) = from_rank_0
    if isinstance(earlier, InputError):
        raise earlier
    if earlier is not None and world.rank == 0:
        before = earlier.manifest.layout
        changed = "" if before == layout else f"; planned anew: {before} -> {layout}"
        print(f"resuming after step {earlier.manifest.step} of {earlier.path}{changed}", flush=True)
    return Checkpoints(world, folder, every=every, keep=keep, layout=layout, earlier=earlier)


def _first(folder: Path, resume: str) -> SoundCheckpoint | None:
    """Find the checkpoint to go on from, and tidy up.

    Half written checkpoints are removed. Those after the one that is found, which are not sound,
    get another name: the run will come to their steps again.
    """
    own = None if resume == "never" else manifest.newest(folder)
    for path in manifest.steps_in(folder):
        if own is None or path > own.path:
            path.rename(tempfile.mkdtemp(prefix=f"{ASIDE}{path.name}-", dir=folder))
    for path in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(path)
    return own or (None if resume in ("auto", "never") else manifest.find(Path(resume)))


def read_model(path: Path) -> dict[str, Tensor]:
    """Read the parameters and buffers in a checkpoint, by name; no other rank is needed.

    Raises:
        InputError: there is no checkpoint, or one of an older version.
    """
    named = written(path).items()
    tensors = {
        name: torch.zeros(saved.shape, dtype=saved.dtype)
        for name, saved in named
        if name.startswith(f"{MODEL}/")
    }
    fill(dict(tensors), path)
    return {name.removeprefix(f"{MODEL}/"): tensor for name, tensor in tensors.items()}

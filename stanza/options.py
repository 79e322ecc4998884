"""Stanza's own flags and job-file keys: `--stanza.fc-workers 1` is `fc_workers = 1` in [stanza]."""

from dataclasses import dataclass
from typing import Literal

from stanza.models import ARCHITECTURES
from systems.schema import InputError, remedy

Scheme = Literal["stanza", "ps", "ddp", "zero1", "zero2", "zero3", "single"]
ZERO_STAGES: dict[str, int] = {"zero1": 1, "zero2": 2, "zero3": 3}
"""DeepSpeed's ZeRO, scheme to stage: 1 partitions the optimizer's states, 2 gradients as well, 3
parameters as well."""
FcParallel = Literal["replicas", "columns"]
FcPlacement = Literal["dedicated", "colocated"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """One training run: what is trained, on what, and how it is distributed."""

    scheme: Scheme = "stanza"
    """stanza: layer separation. Baselines: ps (parameter server), ddp (all-reduce), zero1 to
    zero3 (DeepSpeed's ZeRO), single (one process)."""
    model: str = "digits-cnn"
    """alexnet, vgg16, resnet50, resnet152, inception-v3 or digits-cnn."""
    data: str = "digits"
    """digits (scikit-learn, ships with it), folder:PATH (ImageNet layout) or random (synthetic)."""
    steps: int = 200
    """Steps to train."""
    warm_up_steps: int = 3
    """Steps before the measured window; at least one step is measured."""
    local_batch_size: int | None = None
    """Samples per step and worker with data (the paper's b). None: the model's own, 32 to 256."""
    global_batch_size: int | None = None
    """Samples per step over all workers, instead of local_batch_size. The same for every scheme,
    it makes them compute the same updates."""
    fc_workers: int | Literal["auto"] = "auto"
    """Ranks that train the FC part (the paper's f); 0 separates nothing. auto: the planner's."""
    micro_batches: int | Literal["auto"] = "auto"
    """Parts of a local batch that cross the cut one by one. auto: the planner's."""
    fc_parallel: Literal["replicas", "columns", "auto"] = "replicas"
    """replicas: FC workers hold all FC layers and all-reduce their gradients. columns: each holds a
    slice of every FC layer's inputs, and they exchange outputs. auto: the planner's."""
    fc_placement: Literal["dedicated", "colocated", "auto"] = "dedicated"
    """dedicated: FC workers are ranks of their own. colocated: they are CONV workers as well;
    dropout masks are then not reproducible. auto: the planner's."""
    conv_exchange: Literal["allreduce", "ps"] = "allreduce"
    """How CONV workers exchange their gradients: DDP, or parameter servers beside them."""
    cut_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of activations and their gradients on the wire."""
    ps_servers: int = 1
    """Parameter servers, when dedicated; the model is sliced evenly over them."""
    ps_placement: Literal["dedicated", "colocated"] = "dedicated"
    """dedicated: servers are ranks of their own. colocated: one beside every worker."""
    ps_mode: Literal["blocking", "pipelined"] = "blocking"
    """blocking: push after the backward pass, then pull. pipelined: layer by layer."""
    learning_rate: float = 0.05
    """SGD's step size; constant."""
    momentum: float = 0.9
    """SGD's momentum."""
    weight_decay: float = 0.0
    """SGD's weight decay."""

    def __post_init__(self) -> None:
        if self.model not in ARCHITECTURES:
            known = remedy(self.model, ARCHITECTURES)
            raise InputError(f"--stanza.model {self.model}: unknown model; {known}")
        for name in ("steps", "local_batch_size", "global_batch_size", "ps_servers"):
            _at_least(1, name, getattr(self, name))
        _at_least(0, "fc_workers", self.fc_workers)
        _at_least(0, "warm_up_steps", self.warm_up_steps)
        _at_least(1, "micro_batches", self.micro_batches)
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"--stanza.learning-rate {self.learning_rate:g}: give more than 0")
        if not 0 <= self.momentum < 1:
            raise InputError(f"--stanza.momentum {self.momentum:g}: give 0 or more, less than 1")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"--stanza.weight-decay {self.weight_decay:g}: give 0 or more")
        if self.local_batch_size is not None and self.global_batch_size is not None:
            raise InputError(
                f"--stanza.local-batch-size {self.local_batch_size}: the global batch size is "
                f"given as {self.global_batch_size}; give one, and None for the other"
            )

    @property
    def scheme_name(self) -> str:
        """The scheme with what distinguishes its variants: stanza, ddp, zero1, single, ps-blocking,
        ps-pipelined, or ps-sharded (colocated; with -blocking if it does not pipeline)."""
        if self.scheme != "ps":
            return self.scheme
        if self.ps_placement == "dedicated":
            return f"ps-{self.ps_mode}"
        return "ps-sharded" if self.ps_mode == "pipelined" else "ps-sharded-blocking"

    def window_start(self, first_step: int = 0) -> int:
        """The first step of the measured window, in a run that begins with `first_step` and may be
        shorter than its warm-up."""
        return min(first_step + self.warm_up_steps, self.steps - 1)

    def local_batch(self, workers: int) -> int:
        """Samples of the largest share when `workers` ranks hold data."""
        if self.global_batch_size is not None:
            return -(-self.global_batch_size // workers)
        return self.local_batch_size or ARCHITECTURES[self.model].batch_size

    def samples_per_step(self, workers: int) -> int:
        """Samples of one step over all `workers`."""
        return self.global_batch_size or self.local_batch(workers) * workers


def _at_least(least: int, name: str, value: int | str | None) -> None:
    if isinstance(value, int) and value < least:
        flag = name.replace("_", "-")
        raise InputError(f"--stanza.{flag} {value}: give {least} or more")

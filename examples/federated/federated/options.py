"""The options of a job, and what the schemes leave to decide."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Literal

from systems.flags import refuse_below_one
from systems.schema import InputError

Needs = Mapping[str, tuple[Any, ...]]
"""The values that an option may have, the one to give first."""
ROUNDS = ("fedavg", "fedavgm", "fedprox")
"""The synchronous schemes: everybody waits for a round to end."""
DEFAULT_CONCURRENCY = 10
LEAST_CLIENTS = 2
HALVED: Final = "half-adapters"
RATINGS: Final = "ml-100k"
SEEN_MASKED: Needs = {
    "scheme": ("fedbuff",),
    "staleness_weight": ("constant",),
    "example_weight": ("equal",),
    "max_staleness": (None,),
    "divide_by": ("goal",),
    "upload": ("full",),
}
"""What masked sums need: whatever else would weight, drop or shrink single updates."""
STAYS: Needs = {
    "server_optimizer": ("sgd",),
    "scheme": ("fedbuff", "fedavg", "fedprox", "fedasync"),
}
"""What halved adapters need: a factor that nobody has sent stays as it is."""
OF_ANY_MODEL = ("full", "fp16", "top-k", "random-mask", "sign", "low-rank")
"""The uploads that do not ask what a model is made of, nor for what."""
OF_RATINGS: Needs = {"model": ("factors",), "upload": OF_ANY_MODEL, "size_spread": (0.0,)}
"""What ratings need: they are no images, and their users have as many as they have."""
OF_IMAGES: Needs = {"model": ("mlp", "linear", "cnn")}
AT_LEAST_ONE = "buffer_size steps local_epochs batch_size upload_rank synthetic_samples"
ABOVE_ZERO = "alpha learning_rate server_learning_rate mean_s upload_share adapter_scale"
FROM_ZERO = (
    "concurrency over_selection size_spread proximal staleness_exponent staleness_cutoff "
    "max_staleness test_every"
)
SHARES = "server_momentum staleness_value upload_share adapter_share"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train one model on the data of many clients, which come and go."""

    scheme: Literal["fedavg", "fedavgm", "fedprox", "fedasync", "fedbuff"] = "fedbuff"
    """fedavg, fedavgm and fedprox work in rounds, for whose end all clients wait; fedavgm has
    momentum on the server, fedprox keeps clients near the server's model. fedasync steps for every
    update, fedbuff for every buffer of them; nobody waits."""
    concurrency: int = 0
    """C, how many clients train at once. 0: one for each rank but the server; in one process 10."""
    buffer_size: int = 5
    """K of fedbuff: how many updates make a step."""
    over_selection: float = 0.0
    """In rounds: 0.3 takes the first C / 1.3 updates of a round and drops those that come later."""
    steps: int = 100
    """How many steps the server does."""
    clients: int = 100
    """How many clients there are, each with samples of its own."""
    data: Literal["digits", "mnist-5k", "fashion-mnist", "ml-100k"] = "digits"
    """The data set that is spread over the clients; of ml-100k every client is one of its 943
    users, with ratings of their own."""
    alpha: float = 0.5
    """How alike the clients are: their classes are drawn from a Dirichlet distribution. Small is
    unlike: with 0.1 most have one or two classes."""
    size_spread: float = 0.0
    """How unequal their numbers of samples are: the deviation of the logarithm. 0: all equal."""
    model: Literal["linear", "mlp", "cnn", "factors"] = "mlp"
    """The network: linear, a hidden layer of 32, or two convolutions; factors is for ml-100k, 8 of
    every user and film."""
    local_epochs: int = 1
    """How often a client goes through its samples."""
    batch_size: int = 32
    """The samples of a client's own step."""
    learning_rate: float = 0.1
    """The learning rate of the clients, which do plain SGD."""
    proximal: float = 0.1
    """mu of fedprox: clients add mu / 2 |w - w_t|^2 to their loss."""
    server_optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    """What the server makes of the mean update; fedavgm has momentum in any case."""
    server_learning_rate: float = 1.0
    """Its learning rate. With fedasync it is the share of a client's model that is mixed in."""
    server_momentum: float = 0.9
    """Its momentum, where it has one."""
    staleness_weight: Literal["constant", "polynomial", "threshold"] = "polynomial"
    """What becomes of late updates outside of rounds: nothing, division by (1 + staleness) ^ a, or
    a smaller weight beyond a cutoff."""
    staleness_exponent: float = 0.5
    """a of the polynomial."""
    staleness_cutoff: int = 10
    """The largest staleness that the threshold gives the weight 1."""
    staleness_value: float = 0.1
    """The weight that the threshold gives to staler updates."""
    max_staleness: int | None = None
    """Updates that are staler than this are dropped. None: none is."""
    example_weight: Literal["equal", "linear", "sqrt", "log10"] = "equal"
    """How an update's weight grows with its client's number of samples n: not at all, as n, as its
    root, or as log10(1 + n); relative to the mean client."""
    divide_by: Literal["goal", "weights", "nothing"] = "goal"
    """What the sum of weighted updates is divided by: K (of a factor of half-adapters how many have
    sent it), as the paper of FedBuff does; the sum of
    their weights, as FedAvg does, where that of a single update cancels; or nothing, as FLSim does
    by default, whose learning rates are K times smaller for that."""
    upload: Literal[
        "full", "fp16", "top-k", "random-mask", "sign", "low-rank", "synthetic", "half-adapters"
    ] = "full"
    """How updates travel; see the README."""
    upload_share: float = 0.1
    """The share of the values that top-k and random-mask send."""
    upload_rank: int = 2
    """The rank of low-rank, and of the adapters of half-adapters."""
    adapter_scale: float = 1.0
    """The scale of half-adapters: a layer is W + s B A, with s = scale / sqrt(columns of A)."""
    adapter_share: float = 0.5
    """rho of half-adapters: the probability that a client takes and sends A; else it is B."""
    synthetic_samples: int = 10
    """The number of images that synthetic sends instead of an update."""
    duration: Literal["half-normal", "uniform", "exponential"] = "half-normal"
    """How the seconds of a client's training are distributed, on a virtual clock and emulated."""
    mean_s: float = 1.0
    """Their mean."""
    least_s: float = 0.0
    """The least of them. If it is the mean, all clients take equally long."""
    steady: bool = False
    """Whether a client is always equally fast. Else every training draws anew."""
    speed_follows_data: bool = False
    """Whether clients are the slower the later the class is that they have most of. Needs steady.
    """
    lost: float = 0.0
    """The probability that a client dies in the middle of its training."""
    masked: bool = False
    """Whether the server sees sums of whole buffers alone: clients hide their updates behind masks
    that cancel. A buffer with a lost client is dropped whole."""
    test_every: int = 10
    """The server tests its model every so many steps. 0: at the end alone."""

    def __post_init__(self) -> None:
        refuse_below_one({flag(name): [getattr(self, name)] for name in AT_LEAST_ONE.split()})
        limits: dict[str, tuple[float, float]] = {
            **dict.fromkeys(FROM_ZERO.split(), (0, inf)),
            **dict.fromkeys(SHARES.split(), (0, 1)),
            "clients": (LEAST_CLIENTS, inf),
            "least_s": (0, self.mean_s),
            "lost": (0, 0.9),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                allowed = f"{low:g} to {high:g}" if high < inf else f"{low:g} or more"
                raise wrong(name, value, f"give {allowed}")
        for name in ABOVE_ZERO.split():
            if not 0 < getattr(self, name) < inf:
                raise wrong(name, getattr(self, name), "give more than 0")
        _check_together(self)

    @property
    def in_rounds(self) -> bool:
        """Whether the scheme is synchronous."""
        return self.scheme in ROUNDS


def flag(field: str) -> str:
    """The flag of a field of the options, without its dashes."""
    return f"federated.{field.replace('_', '-')}"


def wrong(field: str, value: object, said: str) -> InputError:
    """The error of an option, its value, and what is said of it."""
    shown = f"{value:g}" if isinstance(value, float) else value
    return InputError(f"--{flag(field)} {shown}: {said}")


def _check_together(options: Options) -> None:
    """Refuse options that contradict each other."""
    if options.over_selection and not options.in_rounds:
        said = f"{options.scheme} has no rounds; give 0, or one that has: {', '.join(ROUNDS)}"
        raise wrong("over_selection", options.over_selection, said)
    if options.speed_follows_data and not options.steady:
        raise InputError(
            f"--{flag('speed_follows_data')}: clients have no speed of their own; add "
            f"--{flag('steady')}"
        )
    sums = f"with --{flag('masked')} the server sees sums of whole buffers alone"
    stays = f"with --{flag('upload')} {HALVED} a factor that nobody has sent stays as it is"
    for on, needs, why in (
        (options.masked, SEEN_MASKED, sums),
        (options.upload == HALVED, STAYS, stays),
        (options.data == RATINGS, OF_RATINGS, f"{RATINGS} has no images, but users and films"),
        (options.data != RATINGS, OF_IMAGES, f"{options.data} has images"),
    ):
        for name, allowed in needs.items():
            value = getattr(options, name)
            if on and value not in allowed:
                raise wrong(name, value, f"{why}; give {allowed[0]}")

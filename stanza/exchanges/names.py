"""The exchanges that have names, and the bytes that each sends. No torch is needed to know that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from systems import by_path
from systems.clusters.cluster import Link
from systems.schema import InputError, remedy

OPTION = "--stanza.exchange"
PLAIN = "plain"
"""The exchange of all gradients as they are."""
SCHEMES = ("ddp", "ps")
"""The schemes whose exchange can be chosen."""
BITS = 32
"""The bits of a gradient's value where nothing compresses it."""


@dataclass(frozen=True)
class Compression:
    """How much travels in place of gradients; what predictions and the traffic table need."""

    factor: float = 1.0
    """The bytes of the messages over those of the gradients."""
    gathered: bool = False
    """Whether, without servers, every rank's messages go to every other rank (an all-gather), as
    sums of them cannot be encoded; else a ring all-reduces them."""

    def seconds(self, size_bytes: float, ranks: int, link: Link) -> float:
        """Return the seconds in which ranks with this link exchange gradients of so many bytes
        among them."""
        if self.gathered:
            return link.all_gather_s(size_bytes * self.factor, ranks)
        return link.all_reduce_s(size_bytes * self.factor, ranks)

    def moved_bytes(self, size_bytes: float, ranks: int) -> float:
        """Return the bytes that each of them sends, and receives, in the exchange."""
        shares = ranks - 1 if self.gathered else 2 * (ranks - 1) / ranks
        return size_bytes * self.factor * shares

    def messages(self, ranks: int) -> int:
        """Count the messages that follow one another in the exchange."""
        return ranks - 1 if self.gathered else 2 * (ranks - 1)


WHOLE = Compression()
"""All gradients travel as they are."""


@dataclass(frozen=True)
class BuiltIn:
    """An exchange that has a name."""

    paths: Mapping[str, str]
    """Its import path under each scheme that can use it."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The arguments that it takes, with their defaults."""
    least: Mapping[str, int] = field(default_factory=dict)
    """The least values of whole numbers among them, where it is not 1."""
    compression: Callable[..., Compression] | None = None
    """How much it sends, from its arguments; None: that depends on more than them."""
    remembers: bool = True
    """Whether it keeps something from step to step, which a checkpoint would have to hold."""


_OF_TORCH = "torch.distributed.algorithms.ddp_comm_hooks.default_hooks"
_HERE = "stanza.exchanges"
BUILT_IN = {
    "fp16": BuiltIn(
        {"ddp": f"{_OF_TORCH}:fp16_compress_hook", "ps": f"{_HERE}.casts:Float16"},
        compression=lambda: Compression(16 / BITS),
        remembers=False,
    ),
    "bf16": BuiltIn(
        {"ddp": f"{_OF_TORCH}:bf16_compress_hook", "ps": f"{_HERE}.casts:BFloat16"},
        compression=lambda: Compression(16 / BITS),
        remembers=False,
    ),
    "top-k": BuiltIn(
        dict.fromkeys(SCHEMES, f"{_HERE}.top_k:TopK"),
        {"density": 0.01},
        # A value of float32 and its place in int32.
        compression=lambda density: Compression(density * (32 + 32) / BITS, gathered=True),
    ),
    "random-k": BuiltIn(
        dict.fromkeys(SCHEMES, f"{_HERE}.random_k:RandomK"),
        {"density": 0.01},
        # A value of float32; the number that tells all their places is next to nothing.
        compression=lambda density: Compression(density, gathered=True),
    ),
    "1-bit": BuiltIn(
        dict.fromkeys(SCHEMES, f"{_HERE}.one_bit:OneBit"),
        {"block": 256},
        # A bit for each value, and a scale of float32 for each block.
        compression=lambda block: Compression((1 + 32 / block) / BITS, gathered=True),
    ),
    "powersgd": BuiltIn({"ddp": f"{_HERE}.hooks:powersgd"}, {"rank": 2, "start": 2}, {"start": 2}),
    "post-local-sgd": BuiltIn(
        {"ddp": f"{_HERE}.hooks:PostLocalSgd"}, {"period": 4, "start": 8}, {"start": 0}
    ),
}
"""The exchanges with names, beside `plain`."""


def check(name: str, arguments: tuple[str, ...], scheme: str) -> None:
    """Refuse an exchange that is not known, takes other arguments, or serves another scheme.
    Nothing is imported.

    Raises:
        InputError: it is so.
    """
    where = f"{OPTION} {name}"
    values = by_path.keywords(arguments, f"{OPTION}-options")
    if name == PLAIN:
        if values:
            raise InputError(
                f"{OPTION}-options {' '.join(arguments)}: the plain exchange takes none; leave "
                f"them out, or give another {OPTION}"
            )
        return
    if scheme not in SCHEMES:
        raise InputError(
            f"{where}: --stanza.scheme {scheme} exchanges gradients in its own way; give "
            f"--stanza.scheme ddp or ps, or {OPTION} plain"
        )
    if name not in BUILT_IN:
        if not by_path.is_path(name):
            known = (PLAIN, *BUILT_IN)
            raise InputError(
                f"{where}: no exchange of that name; {remedy(name, known)}, or one of your own as "
                "module:attribute or path/to/file.py:attribute"
            )
        return
    built_in = BUILT_IN[name]
    if scheme not in built_in.paths:
        raise InputError(f"{where}: is a hook of DDP; give --stanza.scheme ddp")
    for key, value in values.items():
        if key not in built_in.defaults:
            raise InputError(
                f"{OPTION}-options {key}={value}: {name} takes no {key}; "
                f"{remedy(key, list(built_in.defaults)) if built_in.defaults else 'leave it out'}"
            )
    _check_values(name, values)


def _check_values(name: str, values: Mapping[str, Any]) -> None:
    """Refuse values that the arguments of the exchanges here cannot have."""
    for key, value in values.items():
        where = f"{OPTION}-options {key}={value}"
        if key == "density":
            if not (isinstance(value, (int, float)) and 0 < value <= 1):
                raise InputError(f"{where}: give the part of the values to send, such as 0.01")
            continue
        least = BUILT_IN[name].least.get(key, 1)
        if not (isinstance(value, int) and value >= least):
            raise InputError(f"{where}: give a whole number from {least} on")


def arguments_of(name: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of an exchange: those that are given, and the defaults of one with a name."""
    defaults = BUILT_IN[name].defaults if name in BUILT_IN else {}
    return {**defaults, **by_path.keywords(arguments, f"{OPTION}-options")}


def compression_of(name: str, arguments: tuple[str, ...]) -> Compression | None:
    """Say how much an exchange sends, as far as its name and its arguments tell; None: they do
    not."""
    if name == PLAIN:
        return WHOLE
    built_in = BUILT_IN.get(name)
    if built_in is None or built_in.compression is None:
        return None
    return built_in.compression(**arguments_of(name, arguments))


def unpredicted(name: str) -> str:
    """Say why nothing is predicted with an exchange whose compression is not known."""
    if name in BUILT_IN:
        return (
            f"{OPTION} {name}: how many bytes it sends depends on the step or the shapes of the "
            "layers, which no profile has"
        )
    return f"{OPTION} {name}: only a run can tell how many bytes an exchange of your own sends"


def remembers(name: str) -> bool:
    """Whether an exchange may keep something from step to step, which no checkpoint holds."""
    return name != PLAIN and (name not in BUILT_IN or BUILT_IN[name].remembers)

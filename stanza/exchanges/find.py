"""Finds an exchange by its name or its import path, and makes what a scheme needs of it."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future

from stanza.exchanges.codec import Codec, CodecFactory, Packer
from stanza.exchanges.gather import Gathered
from stanza.exchanges.names import BUILT_IN, OPTION, PLAIN, arguments_of
from systems import by_path
from systems.schema import InputError

Hook = Callable[[dist.GradBucket], "Future[Tensor]"]
"""Exchanges a bucket. The future has the mean over the ranks, in the shape of the bucket."""


@runtime_checkable
class BetweenSteps(Protocol):
    """What a hook may have besides: something that it does with the parameters."""

    def after_step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Do what the hook does after every step of the optimizer, on all ranks."""
        ...

    def collect(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make the parameters those of the trained model, on all ranks at the end."""
        ...


@dataclass(frozen=True)
class NamedExchange:
    """An exchange as the options name it; see `stanza.exchanges`."""

    name: str
    arguments: tuple[str, ...] = ()
    """NAME=VALUE, the arguments of its class or function."""

    def hook(self, process_group: dist.ProcessGroup) -> Hook:
        """The hook of DDP, which exchanges with the ranks of a group.

        Raises:
            InputError: what the name stands for cannot be imported or made.
        """
        loaded, where = self._load("ddp"), f"{OPTION} {self.name}"
        if not _is_hook(loaded):
            return Gathered(self._codecs(loaded), process_group)
        if "bucket" in by_path.named_parameters(loaded):
            self._refuse_arguments("a function of a bucket takes none")
            return partial(loaded, process_group)
        hook = by_path.apply(loaded, self.name, OPTION, process_group=process_group, **self._given)
        return _hook(hook, where)

    def codec(self) -> CodecFactory:
        """Return the function that makes the codec of a vector, for parameter servers.

        Raises:
            InputError: what the name stands for cannot be imported or made, or is a hook.
        """
        loaded = self._load("ps")
        if _is_hook(loaded):
            raise InputError(
                f"{OPTION} {self.name}: is a hook of DDP; give --stanza.scheme ddp, or a codec, "
                "with encode and decode"
            )
        return self._codecs(loaded)

    def check(self, scheme: str) -> float | None:
        """Find the exchange and try a codec on a small vector; returns the bytes that it sends over
        those that it is given, or None for a hook, which nobody can tell.

        Raises:
            InputError: see `hook` and `codec`.
        """
        loaded = self._load(scheme)
        if _is_hook(loaded) and scheme == "ddp":
            return None
        values = torch.linspace(-1, 1, TRIED)
        packer = Packer(
            self.codec() if scheme == "ps" else self._codecs(loaded), values, feedback=True
        )
        packer.unpack(packer.pack(values))
        return packer.nbytes / values.nbytes

    @property
    def _given(self) -> dict[str, Any]:
        """The arguments that the options give, and the defaults of the others."""
        return arguments_of(self.name, self.arguments)

    def _load(self, scheme: str) -> Any:
        """Import what the name stands for under a scheme."""
        built_in = BUILT_IN.get(self.name)
        return by_path.load(built_in.paths[scheme] if built_in else self.name, OPTION)

    def _codecs(self, loaded: Any) -> CodecFactory:
        """Return a maker of codecs from what the name stands for. A class or a function makes a
        codec for each vector; an object is itself the codec of all vectors."""
        if _is_codec(loaded) and not isinstance(loaded, type):
            self._refuse_arguments("it is an object; give its class")
            return lambda: _Explained(loaded, self.name)

        def make() -> Codec:
            codec = by_path.apply(loaded, self.name, OPTION, **self._given)
            if not _is_codec(codec):
                raise InputError(
                    f"{OPTION} {self.name}: makes a {type(codec).__name__} without encode and "
                    "decode; give those, or a hook: a function of (process_group, bucket)"
                )
            return _Explained(codec, self.name)

        return make

    def _refuse_arguments(self, why: str) -> None:
        """Refuse arguments that nothing takes."""
        if self.arguments:
            raise InputError(f"{OPTION}-options {' '.join(self.arguments)}: {why}")


def named(name: str, arguments: tuple[str, ...] = ()) -> NamedExchange | None:
    """The exchange with a name and arguments; None for the plain one."""
    return None if name == PLAIN else NamedExchange(name, arguments)


TRIED = 1024
"""The number of values of the vector on which a codec is tried."""


class _Explained:
    """A codec whose own errors are one line that names it."""

    def __init__(self, codec: Codec, name: str) -> None:
        self._codec, self._name = codec, name
        self.error_feedback = bool(getattr(codec, "error_feedback", False))

    def encode(self, values: Tensor) -> Any:
        return by_path.apply(self._codec.encode, self._name, OPTION, values)

    def decode(self, messages: Any, size: int) -> Any:
        return by_path.apply(self._codec.decode, self._name, OPTION, messages, size)


def _is_codec(loaded: Any) -> bool:
    """Whether something encodes and decodes."""
    return hasattr(loaded, "encode") and hasattr(loaded, "decode")


def _is_hook(loaded: Any) -> bool:
    """Whether something is a hook of DDP, a function of `bucket`, or makes one from a
    `process_group`."""
    named = by_path.named_parameters(loaded)
    return not _is_codec(loaded) and ("bucket" in named or "process_group" in named)


def _hook(made: Any, where: str) -> Hook:
    """Return the hook that a factory has made, or refuse what is none."""
    if not callable(made):
        raise InputError(f"{where}: makes a {type(made).__name__}; give a function of a bucket")
    count = len(inspect.signature(made).parameters)
    if count != 1:
        raise InputError(f"{where}: makes a function of {count} arguments; give one of a bucket")
    hook: Hook = made
    return hook

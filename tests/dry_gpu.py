"""`make gpu DRY=1`: what `make gpu` runs, on a CPU, with CUDA imitated and small sizes.

Tensors of "cuda" are on the CPU, events are clocks, graphs replay nothing, streams are those of
`fake_cuda`. The kernels of verification are the emulated ones of `test_cuda`, and Triton's are
interpreted. What is found is no measurement; it shows that every line runs.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

import ctypes
import functools
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import profile

from systems.network import distributed
from tests.gpu import checks, convolution, every_kernel
from tests.gpu.__main__ import main
from tests.gpu.parts import SMALL
from tests.sparsepipe.engine.launches import as_on_gpu
from tests.speculative.verification import test_cuda
from tests.systems.network.fake_cuda import fake_cuda, gated

MODULE = "tests.dry_gpu"
MAPPED = "convolution"
"""The part whose kernel maps are made by Triton's kernel; interpreted, it is too slow for all."""
KERNELS = "TESTBED_EMULATED_KERNELS"
"""The variable that names the folder of the emulated kernels, which all parts share."""
CPU = torch.device("cpu")


def on_cpu(value: Any) -> Any:
    """The CPU instead of a GPU, where a device is meant."""
    if isinstance(value, torch.device):
        return CPU
    return CPU if isinstance(value, str) and value == "cuda" else value


class OnCpu(TorchFunctionMode):
    """Whatever is made on a GPU or moved to one is on the CPU."""

    def __torch_function__(
        self, function: Any, types: Any, given: Any = (), named: Any = None
    ) -> Any:
        named = {name: on_cpu(value) for name, value in (named or {}).items()}
        return function(*map(on_cpu, given), **named)


GENERATOR = torch.Generator


class Generator:
    """Makes a generator of the CPU."""

    def __new__(cls, device: Any = CPU) -> Any:
        return GENERATOR(on_cpu(device))


class Graph:
    """A CUDA graph, whose replay does nothing: what was captured has run then."""

    def replay(self) -> None: ...


@contextmanager
def captured(graph: Graph) -> Iterator[None]:
    yield


def accept_nothing(draft: Tensor, tokens: Tensor, target: Tensor) -> Tensor:
    """FlashInfer's verification, with its arguments."""
    assert draft.shape == target[:, :-1].shape
    assert tokens.dtype == torch.int32
    return tokens


FLASHINFER = ModuleType("flashinfer")
FLASHINFER.sampling = SimpleNamespace(chain_speculative_sampling=accept_nothing)  # type: ignore[attr-defined]
FLASHINFER.__spec__ = ModuleSpec("flashinfer", None)
PROPERTIES = SimpleNamespace(multi_processor_count=1, total_memory=0)
IMITATED: list[tuple[Any, str, Any]] = [
    (torch.cuda, "is_available", lambda: True),
    (torch.cuda, "device_count", lambda: 1),
    (torch.cuda, "get_device_name", lambda *_: "an imitated GPU"),
    (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
    (torch.cuda, "get_device_properties", lambda *_: PROPERTIES),
    (torch.cuda, "synchronize", lambda *_: None),
    (torch, "Generator", Generator),
    (torch.cuda, "CUDAGraph", Graph),
    (torch.cuda, "graph", captured),
    (torch.cuda, "set_device", lambda *_: None),
    (distributed, "choose_device", lambda *_: CPU),
    (convolution, "profile", lambda activities: profile(activities=activities[:1])),
    (checks, "sanitizer_here", lambda: sanitizer()),
    (checks, "EVERY_KERNEL", ("tests.dry_gpu", "kernels")),
]


@contextmanager
def kernels_in_order() -> Iterator[None]:
    """Let Triton's kernels run after what the stream has queued, such as copies."""
    from triton.runtime.interpreter import InterpretedFunction

    with mock.patch.object(InterpretedFunction, "run", gated(InterpretedFunction.run)):
        yield


@contextmanager
def imitated(part: str) -> Iterator[None]:
    """Put everything in place for this process, which runs a part."""
    with ExitStack() as stack:
        if part == MAPPED:
            stack.enter_context(as_on_gpu())
            stack.enter_context(kernels_in_order())
        stack.enter_context(fake_cuda())
        stack.enter_context(mock.patch.dict(sys.modules, flashinfer=FLASHINFER))
        for one in IMITATED:
            stack.enter_context(mock.patch.object(*one))
        stack.enter_context(test_cuda.emulating(emulated))
        stack.enter_context(OnCpu())
        yield


def sanitizer() -> str:
    """A program that takes compute-sanitizer's arguments, and runs what is to be checked."""
    path = Path(tempfile.mkdtemp(), "compute-sanitizer")
    path.write_text(f'#!/bin/sh\nwhile [ "$1" != {sys.executable} ]; do shift; done\nexec "$@"\n')
    path.chmod(0o755)
    return str(path)


@functools.cache
def emulated() -> ctypes.CDLL:
    """The emulated kernels, built when the first part needs them."""
    folder = Path(os.environ.get(KERNELS) or tempfile.mkdtemp())
    built = folder / "emulated.so"
    return test_cuda.load_emulated(built if built.is_file() else test_cuda.build_emulated(folder))


def dry_run(words: list[str]) -> int:
    """Run a part, or all of them, as `tests.gpu.__main__.main` does; returns the exit code."""
    if words[:1] not in (["part"], ["kernels"]):
        with tempfile.TemporaryDirectory() as folder:
            os.environ[KERNELS] = folder  # for the processes of the parts, one after the other
            return main(words, SMALL, MODULE)
    with imitated(words[1] if words[0] == "part" else ""):
        if words[0] == "part":
            return main(words, SMALL, MODULE)
        every_kernel.main(["1x2x1003", "16x1x130"])
        return 0


if __name__ == "__main__":
    sys.exit(dry_run(sys.argv[1:]))

"""The parts, in their order, and the sizes of what they run."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes of everything that is run."""

    copy_bytes: int
    """Of the tensor whose copy is timed."""
    checked: tuple[tuple[int, int, int], ...]
    """(batch, gamma, vocabulary) of verifications that are held against PyTorch's operators."""
    vocabularies: tuple[int, ...]
    batches: tuple[int, ...]
    gammas: tuple[int, ...]
    logits: tuple[str, ...]
    """The dtypes of logits."""
    repetitions: int
    clouds: tuple[str, ...]
    """As `sparsepipe.bench.clouds.task` takes them."""
    channels: tuple[int, ...]
    features: tuple[str, ...]
    """The dtypes of features."""
    network_cloud: str
    network_width: float
    ranks: tuple[int, ...]
    """The numbers of ranks that share the GPU."""
    patience: float = 1.0
    """How many times the limits hold: a busy CPU is no GPU."""


FULL = Scale(
    copy_bytes=2**31,
    checked=(
        (1, 8, 128_256),
        (64, 8, 128_256),
        (16, 8, 32_000),
        (15, 8, 32_000),
        (8, 4, 51_865),
        (3, 2, 5),
        (256, 8, 256_000),
    ),
    vocabularies=(128_256, 32_000, 256_000, 51_865),
    batches=(1, 64, 8),
    gammas=(8, 4),
    logits=("bfloat16", "float32"),
    repetitions=9,
    clouds=("sphere:160", "shapes:0.01x8", "sphere:400"),
    channels=(32, 64, 128, 256),
    features=("float16", "bfloat16", "float32"),
    network_cloud="shapes:0.01x8",
    network_width=1.0,
    ranks=(2, 4),
)
SMALL = Scale(
    copy_bytes=2**20,
    checked=((1, 2, 1003), (3, 2, 5)),
    vocabularies=(1003,),
    batches=(1,),
    gammas=(2,),
    logits=("float32",),
    repetitions=1,
    clouds=("sphere:4",),
    channels=(4,),
    features=("float32",),
    network_cloud="sphere:4x4",
    network_width=1 / 16,
    ranks=(2,),
    patience=15.0,
)


@dataclass(frozen=True)
class Part:
    """A subject, and the seconds that it may take."""

    name: str
    module: str
    limit_s: float
    what: str

    def rows(self, scale: Scale) -> Iterator[Row]:
        """Run the part; yields what it finds as it finds it."""
        run: Callable[[Scale], Iterator[Row]] = getattr(
            importlib.import_module(self.module), self.name
        )
        return run(scale)


PARTS = (
    Part("machine", "tests.gpu.machine", 30, "versions, compilers, copy and read rates"),
    Part(
        "agreement", "tests.gpu.verification", 60, "verification decides as PyTorch's operators do"
    ),
    Part("tests", "tests.gpu.checks", 90, "the tests that need a GPU"),
    Part(
        "ranks", "tests.gpu.ranks", 60, "ranks that share the GPU end with one process's parameters"
    ),
    Part(
        "sanitizer", "tests.gpu.checks", 45, "compute-sanitizer over every kernel of verification"
    ),
    Part(
        "verification",
        "tests.gpu.verification",
        100,
        "times of verification: calls, graphs, bandwidth",
    ),
    Part("convolution", "tests.gpu.convolution", 60, "times of kernel maps and of convolutions"),
    Part(
        "network", "tests.gpu.convolution", 30, "a training step of MinkUNet14 under the profiler"
    ),
)
"""The most valuable first. Together they may take 475 seconds."""

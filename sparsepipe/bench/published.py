"""What others have published of sparse convolution on GPUs. Nothing of it was measured here.

Their networks, clouds and dtypes are not ours, so that these numbers stand beside the measured ones
and are never divided by them.
"""

from dataclasses import dataclass

TORCHSPARSE = "TorchSparse++ (MICRO 2023), its artifact: zenodo.org/records/8311889"
SPIRA = "Spira (MLSys 2026), abstract: arxiv.org/abs/2511.20834v4"
SPCONV = "github.com/traveller59/spconv, docs/BENCHMARK.md at 076bdb057ea3"
ANY_GPU = "an NVIDIA GPU that the abstract does not name"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How many times longer one engine takes than another."""

    engine: str
    """The slower one."""
    over: str
    """The faster one."""
    times: float
    what: str
    how: str
    """Which of many values it is."""
    hardware: str
    source: str

    @property
    def told(self) -> str:
        """The value in words."""
        return f"{self.times:g}x the time of {self.over}, {self.how}"


@dataclass(frozen=True, kw_only=True)
class Duration:
    """What a network's pass takes an engine."""

    engine: str
    part: str
    milliseconds: float
    what: str
    hardware: str
    source: str

    @property
    def told(self) -> str:
        """The value in words."""
        return f"{self.milliseconds:g} ms {self.part}"


SPEEDS = tuple(
    Speed(
        engine=engine,
        over="TorchSparse++",
        times=times,
        what="inference of networks",
        how="measured end to end",
        hardware="A100",
        source=TORCHSPARSE,
    )
    for engine, times in (
        ("MinkowskiEngine", 2.9),
        ("spconv 1.2", 3.3),
        ("TorchSparse", 2.2),
        ("spconv 2", 1.7),
    )
) + tuple(
    Speed(
        engine="earlier engines",
        over="Spira",
        times=times,
        what=what,
        how=how,
        hardware=ANY_GPU,
        source=SPIRA,
    )
    for what, how, times in (
        ("inference of networks", "mean", 1.68),
        ("inference of networks", "most", 3.04),
        ("layers", "mean", 2.11),
        ("layers", "most", 3.44),
    )
)
DURATIONS = tuple(
    Duration(
        engine="spconv 2",
        part=part,
        milliseconds=milliseconds,
        what="its own network without batch norm, implicit GEMM, float16",
        hardware=hardware,
        source=SPCONV,
    )
    for hardware, there, back in (
        ("RTX 3080 Laptop", 11.2, 13.8),
        ("RTX A6000", 11.7, 9.2),
        ("V100", 11.4, 12.2),
        ("A100", 12.4, 12.2),
    )
    for part, milliseconds in (("forward", there), ("backward", back))
)
PUBLISHED: tuple[Speed | Duration, ...] = (*SPEEDS, *DURATIONS)

"""What others have published of sparse convolution on GPUs. Nothing of it was measured here.

Their networks, clouds and dtypes are not ours, so that these numbers stand beside the measured ones
and are never divided by them.
"""

from dataclasses import dataclass

TORCHSPARSE = "TorchSparse++ (MICRO 2023), its artifact: zenodo.org/records/8311889"
SPIRA = "Spira (MLSys 2026), abstract: arxiv.org/abs/2511.20834v4"
SPCONV = "github.com/traveller59/spconv, docs/BENCHMARK.md"
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
        what="its own network without batch norm, 120k voxels, float16",
        hardware=hardware,
        source=SPCONV,
    )
    for hardware, there, back in (
        ("T4", 18.74, 25.51),
        ("V100 32 GB", 15.55, 14.90),
        ("RTX 3090", 11.84, 11.84),
        ("RTX A6000", 11.11, 8.97),
        ("A100", 13.02, 12.43),
        ("RTX 4090", 7.37, 6.87),
    )
    for part, milliseconds in (("forward", there), ("backward", back))
)
PUBLISHED: tuple[Speed | Duration, ...] = (*SPEEDS, *DURATIONS)

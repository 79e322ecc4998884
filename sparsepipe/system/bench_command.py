"""`testbed bench sparse`: time sparse convolution, ours against other engines, dense convolution
and matrix products.

python -m launch bench sparse                                   # a quarter of an hour on one core
python -m launch bench sparse --clouds kitti~2000 --channels 16 --networks
python -m launch bench sparse --device cuda

It leaves a table (table.csv, table.md), a figure with its CSV, and rows.json in a folder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from sparsepipe.bench import clouds, table
from sparsepipe.bench.contest import OURS, Contest, Row, run
from sparsepipe.bench.engines import ENGINES
from sparsepipe.bench.figures import draw_contests
from sparsepipe.models import NETWORKS
from systems import disk, schema
from systems.figures.text import machine
from systems.flags import parse_flags, refuse_below_one
from systems.runs import provenance, record
from systems.schema import InputError, remedy

CLOUDS = ("kitti~2000", "kitti~10000", "meshes~48000")


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Time sparse convolution, engine by engine: a 3x3x3 layer and whole networks, forward,
    backward and inference, and kernel maps."""

    clouds: tuple[str, ...] | None = None
    """The voxels: kitti~VOXELS, meshes~VOXELS, shapes~VOXELS, sphere:SIDE or shapes:VOXEL_SIZE,
    each perhaps with xBATCH. None takes kitti~2000 kitti~10000 meshes~48000, and generated shapes
    where TESTBED_DATA has no such data."""
    channels: tuple[int, ...] = (16, 64)
    """The numbers of input channels of the layer, which are those of output channels too."""
    networks: tuple[str, ...] = ("minkunet14", "minkvgg16-bn")
    """The networks; none after --networks leaves them out."""
    engines: tuple[str, ...] = tuple(ENGINES)
    """Who competes, as far as it is installed; times are told over those of native."""
    device: Literal["cpu", "cuda"] = "cpu"
    """The device to measure on."""
    threads: int = 1
    """The threads of every engine on a CPU. More than one means something only on cores that
    nothing else uses."""
    repetitions: int = 7
    """How many rounds are timed, after one that is not."""
    out: str = "bench-sparse"
    """A new folder for the table, the figure and the rows."""

    def __post_init__(self) -> None:
        numbers = {
            "channels": self.channels,
            "threads": (self.threads,),
            "repetitions": (self.repetitions,),
        }
        refuse_below_one(numbers)
        if self.clouds == ():
            raise InputError(f"--clouds (none): give some, such as {' '.join(CLOUDS)}")
        for name in self.networks:
            if name not in NETWORKS:
                raise InputError(f"--networks {name}: {remedy(name, NETWORKS)}")
        for name in self.engines:
            if name not in ENGINES:
                raise InputError(f"--engines {name}: {remedy(name, ENGINES)}")
        if OURS not in self.engines:
            given = " ".join(self.engines) or "(none)"
            raise InputError(
                f"--engines {given}: give {OURS} too, over whose times others are told"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: torch sees no GPU here; write --device cpu")


def main(arguments: Sequence[str]) -> None:
    """Measure, print the table, write it, draw."""
    program = "testbed bench sparse"
    flags = parse_flags(BenchArguments, arguments, program, BenchArguments())
    names = flags.clouds or tuple(with_data())
    for name in names:
        clouds.task(name)  # refuses one that is not there, before minutes of others
    folder = Path(flags.out)
    record.claim_folder(folder)
    where = f"{flags.device}, {flags.threads} thread(s)"
    print(f"tier measured | median of {flags.repetitions} rounds in turns | {where} | {machine()}")
    print(_columns(table.SHORT.split(", ")))
    rows: list[Row] = []
    for contest in contests(names, flags):
        measured = run(contest, flags.repetitions)
        for engine, reason in table.left_out(measured) - table.left_out(rows):
            print(f"without {engine}: {reason}")
        rows += measured
        _print(measured)
        described = {
            "tier": "measured",
            "command": record.command_line(),
            "environment": provenance.environment(),
            "versions": {engine: table.version(engine) for engine in flags.engines},
            "rows": schema.dump(rows),
        }
        record.write_json(folder / "rows.json", described)
    table.write(rows, folder / "table.csv")
    disk.write_text(folder / "table.md", _page(rows, where))
    print(f"figure: {draw_contests(rows, folder).path}")
    print(f"table: {folder / 'table.md'}, {folder / 'table.csv'}")


def contests(names: Sequence[str], flags: BenchArguments) -> Iterator[Contest]:
    """On every cloud: kernel maps, layers, networks."""

    contest = partial(Contest, device=flags.device, threads=flags.threads, engines=flags.engines)
    for cloud in names:
        yield contest(cloud=cloud, passes=("maps",))
        for channels in flags.channels:
            yield contest(cloud=cloud, passes=("train", "infer"), channels=channels)
        for network in flags.networks:
            yield contest(cloud=cloud, passes=("train", "infer"), network=network)


def with_data() -> Iterator[str]:
    """The clouds that are measured where none are named."""
    for cloud in CLOUDS:
        instead = f"shapes~{cloud.partition('~')[2]}"
        if clouds.has_data(cloud):
            yield cloud
        else:
            print(f"no data for {cloud} in $TESTBED_DATA: generated {instead} instead")
            yield instead


def _print(rows: Sequence[Row]) -> None:
    """Print the rows of a contest that have times."""
    for row in rows:
        if row.wall_s:
            print(_columns(table.line(row, rows)), flush=True)


def _columns(cells: Sequence[str]) -> str:
    """Cells below each other."""
    widths = (14, 8, 14, 20, 12, 3, 10, 20, 13, 10, 10, 8, 6)
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _page(rows: Sequence[Row], where: str) -> str:
    """The table in Markdown, with what it is, and what others have published."""
    load = max(row.load for row in rows)
    above = (
        "Tier measured. Engines take turns, each in a process of its own; a turn is a pass, or the "
        "median of several where they are short. The median and the quartiles are those of n "
        f"rounds. {where}; {machine()}; load average at most {load:.2f}.",
        "`over ours`: the time over that of `native`, round by round; `processor`: the same of the "
        "time in which both were given a core, which other programs disturb less. `of GEMM`: the "
        "rate of a layer over that of matrix products of as many operations, which took turns with "
        "it, by time on a core where there is one thread. `train` is forward and backward, without "
        "an optimizer. The map of stride 1 is made from coordinates, the others from voxels that "
        "the engine knows already.",
    )
    beside = "Published by others, on other networks and devices; nothing of it was measured here:"
    return (
        "\n\n".join(
            [
                "# Sparse convolution, engine by engine",
                *above,
                table.markdown(rows),
                beside,
                table.published(),
            ]
        )
        + "\n"
    )

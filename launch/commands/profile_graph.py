"""`testbed profile graph FILE`: a profile that others published, as JSON that `testbed plan` reads.

    python -m launch profile graph graph.txt --model vgg16 --device V100 --batch-size 128 \
        --out vgg16-v100.json

The file is a `graph.txt` as PipeDream's and SparsePipe's profilers write it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from systems.flags import parse_flags
from systems.profiles import profile
from systems.profiles.graph_file import read_graph
from systems.runs.record import check_new_file
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class GraphArguments:
    """Read a profile in the graph.txt format of PipeDream and SparsePipe."""

    graph: Annotated[str, tyro.conf.Positional] = "graph.txt"
    """The file to read."""
    model: str = "model"
    """What the model is called."""
    device: str = "V100"
    """The kind of device that it was measured on, as cluster files name it."""
    batch_size: int = 1
    """Samples in the mini-batch that it was measured with."""
    source: str | None = None
    """Who measured it, where. None: the file's name."""
    out: str = "profile.json"
    """Where the profile is written."""


def main(arguments: Sequence[str]) -> None:
    """Read the file, print a summary, write the profile."""
    flags = parse_flags(GraphArguments, arguments, "testbed profile graph", GraphArguments())
    graph, out = Path(flags.graph), Path(flags.out)
    check_new_file(out)
    if not graph.is_file():
        raise InputError(f"{graph}: no such file; give a graph.txt of PipeDream or SparsePipe")
    published = read_graph(
        graph.read_text(),
        name=flags.model,
        device_kind=flags.device,
        batch_size=flags.batch_size,
        source=flags.source or graph.name,
    )
    profile.save(published, out)
    print(
        f"profile graph | published, {published.source} | {published.name}, batch "
        f"{published.batch_size} on {published.device}: {len(published.layers)} layers\n"
        f"  profile: {out}"
    )

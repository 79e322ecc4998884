"""Imports point down: between packages, and inside a package between its wings."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {  # of every package, bottom first; wings of one floor may import those named before them
    "systems": [
        [
            "schema",
            "by_path",
            "arguments",
            "optimizers",
            "disk",
            "build",
            "measure",
            "modes",
            "dynamo",
            "deepspeed",
            "mpi",
            "gpus",
            "named_files",
            "parse_report",
            "flags",
            "finding",
        ],
        ["environment"],
        ["processes"],
        ["data"],
        ["profiles", "clusters"],
        ["network"],
        [
            "rank_classes",
            "fair_links",
            "program",
            "simulation",
            "held_ranks",
            "simulate",
            "collectives",
            "faulty",
        ],
        ["runs"],
        ["figures", "progress", "job"],
        ["system", "validation"],
    ],
    "stanza": [
        ["models", "cut", "exchanges"],
        ["own_options", "options"],
        ["layout"],
        ["workers"],
        ["planner"],
        ["train"],
        ["library"],
        ["experiments"],
        ["system"],
    ],
    "sparsepipe": [
        ["names", "engine", "data", "schedule"],
        ["minkowski"],
        ["models", "planner"],
        ["runtime", "options"],
        ["train", "bench"],
        ["library", "experiments"],
        ["system"],
    ],
    "speculative": [
        ["verification", "ngrams"],
        ["decoding", "bench"],
        ["options"],
        ["tasks"],
        ["experiments"],
        ["auditing"],
        ["system"],
    ],
    "launch": [
        ["ownership", "streams", "encoding", "trust", "installed"],
        ["job", "planning", "own_commands"],
        ["records"],
        ["ranks", "launchers", "progress"],
        ["sweep"],
        ["commands"],
        ["reproduction", "__main__"],
    ],
}
BELOW = {"systems": 0, "stanza": 1, "sparsepipe": 1, "speculative": 1, "launch": 1}
"""The height of every package: who stands higher may import who stands lower. `launch` imports no
system, for it finds them by their entry points."""


def imports(path: Path) -> Iterator[str]:
    """The dotted names of all that a file imports, wherever the import stands in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def place(package: str, wing: str) -> int:
    """How high a wing, or a file beside the wings, stands in its package."""
    order = [name for floor in FLOORS[package] for name in floor]
    assert wing in order, f"{package}/{wing} has no place in the floor plan: give it one here"
    return order.index(wing)


@pytest.mark.parametrize("package", FLOORS)
def test_imports_point_down(package: str) -> None:
    upwards = []
    for path in sorted((ROOT / package).rglob("*.py")):
        wing = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        for name in imports(path):
            other, _, rest = name.partition(".")
            if other not in FLOORS:
                continue
            if other != package:
                wrong = BELOW[other] >= BELOW[package]
            elif wing == "__init__" or not rest:
                wrong = False
            else:
                wrong = place(package, rest.partition(".")[0]) > place(package, wing)
            if wrong:
                upwards.append(f"{path.relative_to(ROOT)} imports {name}")
    assert upwards == []

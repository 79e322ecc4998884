"""Training in one process: accuracy on generated shapes and on meshes, and the same twice."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsepipe.experiments.training_figures import curves
from sparsepipe.options import Options
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Case, Outcome, Results

SHAPES = Options(
    width=0.125,
    data="shapes",
    points=256,
    normals=True,
    voxel_size=0.08,
    batch_size=64,
    steps=320,
    learning_rate=0.06,
)
Runs = Sequence[Mapping[str, Any]]
TWICE = ("the same", "the same again")
OWN = "this project's target"


def mesh_options() -> Options | None:
    """A class for every mesh in the folder that TESTBED_DATA names; None where there is none."""
    folder = Path(os.environ.get("TESTBED_DATA", ""), "meshes")
    if not os.environ.get("TESTBED_DATA") or not folder.is_dir():
        return None
    return dataclasses.replace(
        SHAPES,
        data=f"meshes:{folder.resolve()}",
        points=1024,
        normals=False,
        voxel_size=0.05,
        batch_size=32,
        steps=800,
        learning_rate=0.03,
    )


def cases() -> tuple[Case, ...]:
    """Shapes; twice the same; and meshes, where there are any."""
    short = dataclasses.replace(SHAPES, steps=20, test_clouds=64)
    found = [Case(name="shapes", options=SHAPES)]
    found += [Case(name=name, options=short) for name in TWICE]
    meshes = mesh_options()
    if meshes is not None:
        found.append(Case(name="meshes", options=meshes, level="full"))
    return tuple(found)


def conclude(results: Results, folder: Path) -> Outcome:
    """Curves, accuracies, and whether two runs are one."""
    trained = {name: results[name] for name in ("shapes", "meshes") if name in results}
    claims = [_accuracy("shapes", results["shapes"], 0.95)]
    if "meshes" in results:
        claims.append(_accuracy("meshes", results["meshes"], 0.90))
    return Outcome(
        figures=(curves(trained, folder),),
        claims=(*claims, *_duration(results["shapes"]), _repeated(results)),
    )


def _accuracy(name: str, runs: Runs, least: float) -> Claim:
    return claim(
        *("sparsepipe", "accuracy", name, "measured"),
        what=f"test accuracy on {name}, MinkVGG16-BN an eighth as wide, one process",
        values=[run["test_accuracy"] for run in runs],
        unit="fraction",
        target=Target(least=least, source=OWN),
    )


def _duration(runs: Runs) -> list[Claim]:
    return [
        claim(
            *("sparsepipe", "training-time", "shapes", "measured"),
            what="seconds of that training on shapes, on this machine",
            values=[run["train_s"] for run in runs],
            unit="s",
            target=Target(most=300.0, source=f"{OWN}, on 2 cores"),
        )
    ]


def _repeated(results: Results) -> Claim:
    first, again = (results[name][0]["digest"] for name in TWICE)
    return claim(
        *("sparsepipe", "same-parameters-twice", "shapes", "measured"),
        what="1 if two runs of 20 steps with one seed end with equal parameters, bit by bit",
        values=[float(first == again)],
        unit="",
        target=Target(least=1.0, source=OWN),
    )

"""Training in one process: accuracy on generated shapes and on meshes, and the same twice."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsepipe.experiments.training_figures import curves
from sparsepipe.options import Options
from systems.figures.claims import OWN, Claim, Target, claim
from systems.figures.experiment import Case, Outcome, Results, sweep

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
LEAST_ACCURACY = {"shapes": 0.95, "meshes": 0.90}
TWICE = ("the same", "the same again")


def mesh_options() -> Options | None:
    """Options for training on meshes, a class for every mesh in the folder that TESTBED_DATA names.

    None where there is no such folder.
    """
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
    """Shapes, a short training twice, and meshes where there are any."""
    short = {"steps": 20, "test_clouds": 64}
    shapes = sweep(SHAPES, {"shapes": {}, **dict.fromkeys(TWICE, short)})
    meshes = mesh_options()
    if meshes is None:
        return shapes
    return (*shapes, Case(name="meshes", options=meshes, level="full"))


def conclude(results: Results, folder: Path) -> Outcome:
    """Draw the loss; judge accuracies, time, and whether two equal runs end alike."""
    trained = {name: results[name] for name in LEAST_ACCURACY if name in results}
    return Outcome(
        figures=(curves(trained, folder),),
        claims=(*(_accuracy(name, runs) for name, runs in trained.items()), *_claims(results)),
    )


def _accuracy(name: str, runs: Sequence[Mapping[str, Any]]) -> Claim:
    return claim(
        f"sparsepipe.accuracy.{name}.measured",
        f"test accuracy on {name}, MinkVGG16-BN an eighth as wide, one process",
        [run["test_accuracy"] for run in runs],
        Target(least=LEAST_ACCURACY[name], unit="fraction"),
    )


def _claims(results: Results) -> tuple[Claim, Claim]:
    """How long training on shapes takes, and that training is deterministic."""
    first, again = (results[name][0]["digest"] for name in TWICE)
    return (
        claim(
            "sparsepipe.training-time.shapes.measured",
            "seconds of that training on shapes, on this machine",
            [run["train_s"] for run in results["shapes"]],
            Target(most=300.0, source=f"{OWN}, on 2 cores", unit="s"),
        ),
        claim(
            "sparsepipe.same-parameters-twice.shapes.measured",
            "1 if two runs of 20 steps with one seed end with equal parameters, bit by bit",
            [float(first == again)],
            Target(least=1.0),
        ),
    )

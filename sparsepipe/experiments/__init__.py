"""What `testbed reproduce sparsepipe` runs, in order."""

from pathlib import Path

from sparsepipe.experiments import (
    engine,
    equivalence,
    parity,
    pipeline,
    pipeline_grid,
    pipeline_training,
    planner,
    published,
    training,
    unequal,
    unequal_grid,
)
from sparsepipe.experiments.paper import PAPER as PAPER
from systems.figures.experiment import Experiment, Outcome, Results, measured_here


def _conclude_training(results: Results, folder: Path) -> Outcome:
    """Conclude both parts of training, which share the run of one process on shapes."""
    parts = (training.conclude(results, folder), pipeline_training.conclude(results, folder))
    return Outcome(
        figures=tuple(figure for part in parts for figure in part.figures),
        claims=tuple(claim for part in parts for claim in part.claims),
        notes=tuple(note for part in parts for note in part.notes),
    )


EXPERIMENTS: tuple[Experiment, ...] = (
    *measured_here(
        "sparsepipe",
        {
            "parity": (
                "Sparse convolution against dense convolution and MinkowskiEngine: equal results",
                parity,
            ),
            "engine": (
                "SparsePipe's sparse engine against other engines and against dense convolution",
                engine,
            ),
        },
    ),
    Experiment(
        system="sparsepipe",
        id="training",
        title="Training a narrow MinkVGG16-BN on point clouds: one process, and pipelines",
        tier="measured",
        cases=(*training.cases(), *pipeline_training.cases()),
        repeats={"quick": 1, "full": 3},
        conclude=_conclude_training,
    ),
    *measured_here(
        "sparsepipe", {"equivalence": ("Pipelines against one process, step for step", equivalence)}
    ),
    Experiment(
        system="sparsepipe",
        id="planner",
        title="SparsePipe's planner against brute force, and its time",
        tier="simulated",
        measure=planner.measure,
        conclude=planner.conclude,
    ),
    Experiment(
        system="sparsepipe",
        id="pipeline",
        title="Pipelines over unequal devices: plans, baselines and the bound",
        tier="emulated",
        cluster=pipeline_grid.CLUSTER,
        cases=pipeline_grid.CASES,
        conclude=pipeline.conclude,
    ),
    Experiment(
        system="sparsepipe",
        id="unequal",
        title="Unequal devices for real: plans and baselines on unequal shares of this machine",
        tier="shaped",
        cases=unequal_grid.CASES,
        repeats={"quick": 1, "full": 3},
        conclude=unequal.conclude,
    ),
    Experiment(
        system="sparsepipe",
        id="published",
        title="Pipelined jobs that others measured, predicted",
        tier="simulated",
        conclude=published.conclude,
    ),
)

"""What `launch reproduce sparsepipe` runs, in order."""

from sparsepipe.experiments import (
    engine,
    parity,
    pipeline,
    pipeline_grid,
    pipeline_training,
    training,
)
from sparsepipe.experiments.paper import PAPER as PAPER
from systems.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        system="sparsepipe",
        id="parity",
        title="Sparse convolution against dense convolution and MinkowskiEngine: equal results",
        tier="measured",
        repeats={"quick": 1, "full": 1},
        measure=parity.measure,
        conclude=parity.conclude,
    ),
    Experiment(
        system="sparsepipe",
        id="engine",
        title="SparsePipe's sparse engine against other engines and against dense convolution",
        tier="measured",
        repeats={"quick": 1, "full": 1},
        measure=engine.measure,
        conclude=engine.conclude,
    ),
    Experiment(
        system="sparsepipe",
        id="training",
        title="Training a narrow MinkVGG16-BN on point clouds",
        tier="measured",
        cases=training.cases(),
        repeats={"quick": 1, "full": 3},
        conclude=training.conclude,
    ),
    Experiment(
        system="sparsepipe",
        id="pipeline",
        title="Pipelines over unequal devices: plans, baselines and the bound",
        tier="emulated",
        cluster=pipeline_grid.CLUSTER,
        cases=pipeline_grid.CASES,
        repeats={"quick": 1, "full": 1},
        conclude=pipeline.conclude,
    ),
    Experiment(
        system="sparsepipe",
        id="pipeline-training",
        title="Asynchronous, flushing and one-process training of one network",
        tier="measured",
        cases=pipeline_training.CASES,
        repeats={"quick": 1, "full": 3},
        conclude=pipeline_training.conclude,
    ),
)

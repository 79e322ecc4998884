"""What `launch reproduce sparsepipe` runs, in order."""

from sparsepipe.experiments import engine
from systems.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        id="engine",
        title="SparsePipe's sparse engine against other engines and against dense convolution",
        tier="measured",
        repeats={"quick": 1, "full": 1},
        measure=engine.measure,
        conclude=engine.conclude,
    ),
)

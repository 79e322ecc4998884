"""What `launch reproduce speculative` runs, in order."""

from speculative.experiments import verification
from systems.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        system="speculative",
        id="verification",
        title="Verification kernels against transformers' function",
        tier="measured",
        repeats={"quick": 1, "full": 1},
        measure=verification.measure,
        conclude=verification.conclude,
    ),
)

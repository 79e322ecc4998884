"""What `launch reproduce speculative` runs, in order."""

from speculative.experiments import approximation, compiled, correctness, gpu, quality, verification
from speculative.experiments.paper import PAPER as PAPER
from systems.figures.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        system="speculative",
        id="correctness",
        title="Exact verification on trial: distribution, negative controls, float64",
        tier="measured",
        measure=correctness.measure,
        conclude=correctness.conclude,
    ),
    Experiment(
        system="speculative",
        id="verification",
        title="Verification kernels against transformers' function",
        tier="measured",
        measure=verification.measure,
        conclude=verification.conclude,
    ),
    Experiment(
        system="speculative",
        id="verification-gpu",
        title="Verification kernels on a GPU",
        tier="measured",
        measure=gpu.measure,
        conclude=gpu.conclude,
    ),
    Experiment(
        system="speculative",
        id="compiled",
        title="CUDA kernels, compiled",
        tier="measured",
        measure=compiled.measure,
        conclude=compiled.conclude,
    ),
    Experiment(
        system="speculative",
        id="quality",
        title="Speech and summaries, decoded with exact and approximate verification",
        tier="measured",
        measure=quality.measure,
        conclude=quality.conclude,
    ),
    Experiment(
        system="speculative",
        id="approximation",
        title="Distance of the approximations from the target's distribution",
        tier="measured",
        measure=approximation.measure,
        conclude=approximation.conclude,
    ),
)

"""What `testbed reproduce speculative` runs, in order."""

from speculative.experiments import approximation, compiled, correctness, gpu, quality, verification
from speculative.experiments.paper import PAPER as PAPER
from systems.figures.experiment import measured_here

EXPERIMENTS = measured_here(
    "speculative",
    {
        "correctness": (
            "Exact verification on trial: distribution, negative controls, float64",
            correctness,
        ),
        "verification": ("Verification kernels against transformers' function", verification),
        "verification-gpu": ("Verification kernels on a GPU", gpu),
        "compiled": ("CUDA kernels, compiled", compiled),
        "quality": (
            "Speech and summaries, decoded with exact and approximate verification",
            quality,
        ),
        "approximation": (
            "Distance of the approximations from the target's distribution",
            approximation,
        ),
    },
)

"""What `testbed doctor` looks for on behalf of speculative sampling."""

from speculative.verification.build import find_nvcc
from systems.finding import Finding, extra, program


def checks() -> list[Finding]:
    """The CUDA compiler, and what evaluates real models."""
    return [
        _nvcc(),
        extra("transformers", "speculative", "speculative sampling on real models"),
        extra("jiwer", "speculative", "word error rates"),
        extra("rouge-score", "speculative", "ROUGE of summaries"),
        extra("pocketsphinx", "ngram", "verification on distributions of real words"),
    ]


def _nvcc() -> Finding:
    """Whether there is a CUDA compiler."""
    return program(
        "nvcc",
        find_nvcc(),
        needed_for="fast verification on GPUs",
        command="install the CUDA toolkit, and put nvcc on PATH or set CUDA_HOME",
    )

"""The paper that the verification methods come from, and what answers it here."""

from systems.figures.paper import Paper, Statement

PAPER = Paper(
    title="Optimized Speculative Sampling for GPU Hardware Accelerators",
    arxiv="2406.11016",
    idea="A draft model proposes tokens and the target verifies them. Verification itself costs "
    "time: one kernel computes it without writing intermediate matrices, and a sigmoid in place of "
    "the softmax needs no sum over the vocabulary.",
    statements=(
        Statement(
            text="Exact verification takes 6 to 13 % less profiling time than the plain "
            "implementation (on GPUs).",
            answered_by=("exact-less-time", "exact-over-transformers"),
        ),
        Statement(
            text="Sigmoid verification takes 37 to 94 % less (on GPUs).",
            answered_by=("sigmoid-less-time", "sigmoid-over-transformers"),
        ),
        Statement(
            text="Exact verification keeps the target's accuracy.",
            answered_by=("exact-total-variation", "exact-*-apart"),
        ),
        Statement(
            text="Sigmoid verification loses a little accuracy (word error rate, ROUGE-1).",
            answered_by=("sigmoid-*-lost", "sigmoid-acceptance-apart", "sigmoid-total-variation"),
        ),
    ),
)

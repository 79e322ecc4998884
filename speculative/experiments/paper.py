"""The paper that the verification methods come from, and what answers it here."""

from systems.figures.paper import Answer, Paper, Statement

PAPER = Paper(
    title="Optimized Speculative Sampling for GPU Hardware Accelerators",
    arxiv="2406.11016",
    idea="A draft model proposes tokens and the target verifies them: one kernel does that without "
    "writing intermediate matrices, and a sigmoid in place of the softmax needs no sum over the "
    "vocabulary.",
    figure="verification-improvement",
    statements=(
        Statement(
            text="Exact verification takes 6 to 13 % less profiling time than the plain "
            "implementation (on GPUs).",
            answers=(
                Answer(
                    quantity="exact-less-time",
                    sentence="Part of the time of transformers' function that exact verification "
                    "saves, over vocabularies and draft lengths; the paper's baseline is another.",
                ),
                Answer(
                    quantity="exact-over-transformers",
                    sentence="Time of transformers' function over that of exact verification.",
                ),
            ),
        ),
        Statement(
            text="Sigmoid verification takes 37 to 94 % less (on GPUs).",
            answers=(
                Answer(
                    quantity="sigmoid-less-time",
                    sentence="Part of the time of transformers' function that sigmoid verification "
                    "saves, over vocabularies and draft lengths.",
                ),
                Answer(
                    quantity="sigmoid-over-transformers",
                    sentence="Time of transformers' function over that of sigmoid verification.",
                ),
            ),
        ),
        Statement(
            text="Exact verification keeps the target's accuracy.",
            answers=(
                Answer(
                    quantity="exact-total-variation",
                    sentence="Total variation between the tokens that exact verification emits and "
                    "the target's distribution, in closed form; 0 is equal.",
                ),
                Answer(
                    quantity="exact-*-apart",
                    sentence="Difference between the scores (ROUGE-1, word error rate) of exact "
                    "verification and of the target alone, in half widths of the difference's 95 % "
                    "interval; below 1 no difference is seen.",
                ),
            ),
        ),
        Statement(
            text="Sigmoid verification loses a little accuracy (word error rate, ROUGE-1).",
            answers=(
                Answer(
                    quantity="sigmoid-*-lost",
                    sentence="Part of the target's score (ROUGE-1, word error rate) that sigmoid "
                    "verification loses, with a tiny pair of models.",
                ),
                Answer(
                    quantity="sigmoid-total-variation",
                    sentence="Total variation between the tokens that sigmoid verification emits "
                    "and the target's distribution; 0 is equal, 1 has nothing in common.",
                ),
                Answer(
                    quantity="sigmoid-acceptance-apart",
                    sentence="Difference between the acceptance rates of sigmoid and exact "
                    "verification; 0 means that both decide alike.",
                ),
            ),
        ),
    ),
)

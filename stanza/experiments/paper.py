"""The paper that Stanza comes from, and what answers it here."""

from systems.figures.paper import Paper, Statement

PAPER = Paper(
    title="Stanza: Layer Separation for Distributed Training in Deep Learning",
    arxiv="1812.10624",
    idea="Most parameters of a CNN sit in its fully connected (FC) layers, most arithmetic in its "
    "convolutional ones. So most ranks train the convolutional part, few the FC part, and FC "
    "gradients never cross the network.",
    statements=(
        Statement(
            text="Stanza trains common models 1.34x to 13.9x faster than parameter servers on EC2 "
            "V100 nodes with 10 Gb/s.",
            answered_by=(
                "speedup-as-published-over-ps-*",
                "speedup-over-ps-*",
                "speedup-with-micro-batches-over-ps-*",
            ),
        ),
        Statement(
            text="FC gradients and parameters no longer cross the cluster, activations at the cut "
            "do: far fewer bytes.",
            answered_by=("bytes-over-table",),
        ),
        Statement(
            text="(No number.) Training stays what it was: synchronous SGD on the whole batch.",
            answered_by=("loss-gap", "accuracy", "accuracy-gap"),
        ),
    ),
)

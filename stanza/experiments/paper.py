"""The paper that Stanza comes from, and what answers it here."""

from systems.figures.paper import Answer, Paper, Statement

PAPER = Paper(
    title="Stanza: Layer Separation for Distributed Training in Deep Learning",
    arxiv="1812.10624",
    idea="Most parameters of a CNN sit in its fully connected (FC) layers and most arithmetic in "
    "its convolutional ones, so most ranks train the convolutional part, few the FC part, and FC "
    "gradients never cross the network.",
    figure="time-to-accuracy",
    statements=(
        Statement(
            text="Stanza trains common models 1.34x to 13.9x faster than parameter servers on EC2 "
            "V100 nodes with 10 Gb/s.",
            answers=(
                Answer(
                    quantity="sooner-as-published-over-ps-blocking",
                    sentence="How many times sooner Stanza as published (one FC worker, no "
                    "micro-batches) reaches the target accuracy than one blocking parameter "
                    "server, in real training on a cluster in this machine.",
                ),
                Answer(
                    quantity="sooner-chosen-over-*",
                    sentence="How many times sooner the planner's choice, with micro-batches, "
                    "reaches the target accuracy than another scheme, or than the best of them, in "
                    "real training on a cluster in this machine.",
                ),
                Answer(
                    quantity="speedup-as-published-over-ps-blocking",
                    sentence="Throughput of Stanza as published (one FC worker, no micro-batches) "
                    "over one blocking parameter server.",
                ),
                Answer(
                    quantity="chosen-over-ddp",
                    sentence="Throughput of the planner's choice, with micro-batches, over DDP, "
                    "whose all-reduce overlaps the backward pass: a stronger baseline than the "
                    "paper's.",
                ),
                Answer(
                    quantity="chosen-over-ps-blocking",
                    sentence="Throughput of the planner's choice over one blocking parameter "
                    "server. The planner adds micro-batches, which the paper does not have: they "
                    "are why this leaves the paper's range.",
                ),
                Answer(
                    quantity="chosen-over-ps-pipelined",
                    sentence="Throughput of the planner's choice, with micro-batches, over one "
                    "pipelined parameter server.",
                ),
                Answer(
                    quantity="chosen-over-ps-sharded",
                    sentence="Throughput of the planner's choice over parameter servers beside all "
                    "workers, a stronger baseline than the paper's.",
                ),
            ),
        ),
        Statement(
            text="FC gradients and parameters no longer cross the cluster, activations at the cut "
            "do: far fewer bytes.",
            answers=(
                Answer(
                    quantity="bytes-of-ps-blocking-over-stanza",
                    sentence="How many times more bytes the busiest node carries with one "
                    "parameter server than with Stanza, in each step.",
                ),
                Answer(
                    quantity="bytes-of-ddp-over-stanza",
                    sentence="How many times more bytes the busiest node carries with DDP than "
                    "with Stanza, in each step.",
                ),
                Answer(
                    quantity="bytes-over-table",
                    sentence="Bytes that TCP carried over those in the paper's traffic table; 1 "
                    "means that the table is right.",
                ),
            ),
        ),
        Statement(
            text="(No number.) Training stays what it was: synchronous SGD on the whole batch.",
            answers=(
                Answer(
                    quantity="loss-gap",
                    sentence="Largest relative difference between a scheme's loss and one "
                    "process's within 10 steps, worst seed.",
                ),
                Answer(quantity="accuracy", sentence="Test accuracy after training."),
                Answer(
                    quantity="accuracy-apart",
                    sentence="Largest difference of the final test accuracies of all schemes, "
                    "worst seed.",
                ),
                Answer(
                    quantity="accuracy-gap",
                    sentence="Difference of test accuracy between Stanza and one process, worst "
                    "seed.",
                ),
            ),
        ),
    ),
)

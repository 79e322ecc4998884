"""The paper that SparsePipe comes from, and what answers it here."""

from systems.figures.paper import Answer, Paper, Statement

PAPER = Paper(
    title="SparsePipe: Parallel Deep Learning for 3D Point Clouds",
    arxiv="2012.13846",
    idea="Convolution visits only the voxels that exist, which saves time and memory, and the "
    "network's layers are divided over unequal GPUs with several mini-batches in flight. The "
    "abstract gives no numbers.",
    figure="pipeline-throughput",
    statements=(
        Statement(
            text="Sparse tensors save time and memory against dense volumes, so that higher "
            "resolutions fit.",
            answers=(
                Answer(
                    quantity="speed-over-dense",
                    sentence="Time of dense convolution over that of sparse convolution, forward "
                    "and backward.",
                ),
                Answer(
                    quantity="memory-over-dense",
                    sentence="Peak memory of dense convolution over that of sparse convolution.",
                ),
                Answer(
                    quantity="peak-memory",
                    sentence="Peak memory of sparse convolution at a resolution at which dense "
                    "convolution needs more than this machine has.",
                ),
            ),
        ),
        Statement(
            text="A model divided over unequal GPUs (TitanV and TitanXp, eight in all) so that "
            "their load is balanced trains with less communication.",
            answers=(
                Answer(
                    quantity="over-ddp",
                    sentence="Throughput of the plan over DDP, on TitanV + TitanXp and at 1 or 10 "
                    "Gb/s.",
                ),
                Answer(
                    quantity="over-the-best-baseline",
                    sentence="Throughput of the plan over the best of all baselines, on the "
                    "cluster and at the rate where it gains least.",
                ),
                Answer(
                    quantity="over-equal-split*",
                    sentence="Throughput of the plan over stages of equally many layers.",
                ),
                Answer(
                    quantity="over-data-parallel-by-speed",
                    sentence="Throughput of the plan over data parallelism whose shares follow "
                    "the devices' speeds.",
                ),
                Answer(
                    quantity="plan-over-best-known",
                    sentence="Predicted step of the plan over the best that is known by hand, at "
                    "10 GB/s; 1 is as good.",
                ),
            ),
        ),
        Statement(
            text="Several mini-batches in flight overlap communication and computing.",
            answers=(
                Answer(
                    quantity="utilisation-of-slowest-stage",
                    sentence="Part of the time in which the device with the most work computes, in "
                    "the plan where that part is least.",
                ),
                Answer(
                    quantity="virtual-stages-above-bound",
                    sentence="How far a step with virtual stages lies above the bound of a step "
                    "without any communication.",
                ),
            ),
        ),
        Statement(
            text="Training reaches good accuracy on point-cloud benchmarks, asynchronously too.",
            answers=(
                Answer(
                    quantity="accuracy",
                    sentence="Test accuracy of one process on generated shapes, not on the paper's "
                    "benchmarks.",
                ),
                Answer(
                    quantity="asynchronous-below-*",
                    sentence="Test accuracy that asynchronous training loses against one process, "
                    "or against a pipeline that flushes.",
                ),
            ),
        ),
    ),
)

"""The paper that SparsePipe comes from, and what answers it here."""

from systems.figures.paper import Paper, Statement

PAPER = Paper(
    title="SparsePipe: Parallel Deep Learning for 3D Point Clouds",
    arxiv="2012.13846",
    idea="Point clouds are sparse: a convolution over the voxels that exist needs less time and "
    "memory than one over a dense volume. Its layers are divided over unequal GPUs, and several "
    "mini-batches are in flight at once. The abstract gives no numbers.",
    statements=(
        Statement(
            text="Sparse tensors save time and memory against dense volumes, so that higher "
            "resolutions fit.",
            answered_by=("speed-over-dense", "memory-over-dense", "peak-memory"),
        ),
        Statement(
            text="A model divided over unequal GPUs (TitanV and TitanXp, eight in all) so that "
            "their load is balanced trains with less communication.",
            answered_by=("over-ddp", "over-the-best-baseline", "plan-over-best-known"),
        ),
        Statement(
            text="Several mini-batches in flight overlap communication and computing.",
            answered_by=("utilisation-of-slowest-stage", "virtual-stages-above-bound"),
        ),
        Statement(
            text="Training reaches good accuracy on point-cloud benchmarks, asynchronously too.",
            answered_by=("accuracy", "asynchronous-below-*"),
        ),
    ),
)

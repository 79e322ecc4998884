"""A yardstick: matrix products of as many operations as a layer has, on rows that lie together."""

from collections.abc import Iterator

import torch

from sparsepipe.bench.passes import Passes
from sparsepipe.bench.task import Task

ROWS = 8192
"""The rows of a product: enough for its full rate, and few enough to stay in a cache."""


def passes(task: Task) -> Passes:
    """The passes of a layer: [rows, C] x [C, C] for each pair once forward, and twice backward."""
    whole, rest = divmod(task.pairs, ROWS)
    left = torch.randn(ROWS, task.channels, device=task.device)
    right = torch.randn(task.channels, task.channels, device=task.device)
    out = torch.empty(ROWS, task.channels, device=task.device)

    def product() -> None:
        """Multiply as many rows as there are pairs."""
        for _ in range(whole):
            torch.mm(left, right, out=out)
        torch.mm(left[:rest], right, out=out[:rest])

    def train() -> Iterator[str | None]:
        """A step has three such products."""
        product()
        yield "forward"
        product()
        product()
        yield "backward"

    def infer() -> Iterator[str | None]:
        """The forward pass."""
        product()
        yield "infer"

    return {"train": train, "infer": infer}

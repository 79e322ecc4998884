"""The baselines' worker: it holds the whole model, as in ordinary data parallelism.

Which baseline it is depends on the exchange alone: nothing to exchange in a single process,
all-reduce, parameter servers, or ZeRO.
"""

from torch import Tensor

from stanza.workers.exchange import Exchange
from stanza.workers.loss import loss_sum


class WholeModelWorker:
    """Trains all layers on its share of the batch."""

    def __init__(self, model: Exchange) -> None:
        """Train `model`, whose exchange keeps it equal to the other workers' copies."""
        self._model = model

    def step(self, images: Tensor, labels: Tensor, global_batch_size: int) -> float:
        """Train one step on images [b, C, H, W] and labels int64 [b].

        Returns:
            The sum of the losses of these samples.
        """
        outputs = self._model.forward(images)
        loss = loss_sum(outputs, labels)
        self._model.expect_gradients(outputs)
        (loss / global_batch_size).backward()
        self._model.update()
        return loss.item()

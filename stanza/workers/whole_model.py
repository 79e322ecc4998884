"""What Stanza must beat: data parallelism with the whole model on every worker.

The exchange makes the scheme: none (one process), DDP, or a parameter server.
"""

from torch import Tensor

from stanza.workers.exchange import Exchange
from stanza.workers.loss import loss_sum


class WholeModelWorker:
    """Trains all layers on its share of the batch."""

    def __init__(self, model: Exchange) -> None:
        self._model = model

    def step(self, images: Tensor, labels: Tensor, global_batch_size: int) -> float:
        """One step on images [b, C, H, W] and labels int64 [b].

        Returns:
            The sum of the samples' losses.
        """
        outputs = self._model.forward(images)
        loss = loss_sum(outputs, labels)
        self._model.expect_gradients(outputs)
        (loss / global_batch_size).backward()
        self._model.update()
        return loss.item()

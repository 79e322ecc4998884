"""The baselines' worker: it holds the whole model, as in ordinary data parallelism.

Which baseline it is depends on the exchange alone: nothing to exchange in a single process,
all-reduce, parameter servers, or ZeRO.
"""

from torch import Tensor

from stanza.workers.exchange import Exchange
from stanza.workers.loss import Loss
from stanza.workers.targets import Targets


class WholeModelWorker:
    """Trains all layers on its share of the batch."""

    def __init__(self, model: Exchange, loss_sum: Loss) -> None:
        """Train `model`, whose exchange keeps it equal to the other workers' copies.

        Args:
            loss_sum: the loss, summed over the samples.
        """
        self._model, self._loss_sum = model, loss_sum

    def step(self, images: Tensor, targets: Targets, global_batch_size: int) -> float:
        """Train one step on images [b, C, H, W] and their targets; b may be 0.

        Returns:
            The sum of the losses of these samples.
        """
        if not len(images):
            self._model.expect_gradients(None)
            self._model.update()
            return 0.0
        outputs = self._model.forward(images)
        loss = self._loss_sum(outputs, targets)
        self._model.expect_gradients(outputs)
        (loss / global_batch_size).backward()
        self._model.update()
        return loss.item()

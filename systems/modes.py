"""Changes the mode of a model, training or evaluation, and restores that of every module.

`model.train()` after `model.eval()` would also put layers into training mode that somebody had
frozen with `layer.eval()`, and their dropout and batch normalisation would run again. All code that
changes a mode uses these functions.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_restored(*models: nn.Module) -> Iterator[None]:
    """Restore the mode of every module of these models at the end of the block."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.train(training)  # some modules do more here than note the mode
        for module, training in modes:
            module.training = training  # train() has reached the modules inside too


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put these models into evaluation mode for the block, then restore all modes."""
    with modes_restored(*models):
        for model in models:
            model.eval()
        yield

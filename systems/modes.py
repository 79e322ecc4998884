"""Training or evaluation: a model's modules have a mode each, and keep it.

`model.train()` after `model.eval()` also puts the layers in training mode that somebody had frozen
(`layer.eval()`), so that their dropout and batch norm run again. Whoever changes a mode uses these.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_restored(*models: nn.Module) -> Iterator[None]:
    """Give every module of `models` its own mode back at the end, also after an exception."""
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
    """Evaluation mode inside, every module's own mode afterwards."""
    with modes_restored(*models):
        for model in models:
            model.eval()
        yield

"""What a call of a network does besides computing its output, which a graph would forget.

Tracing calls the network once. Whatever changes from call to call would stay for ever as it was in
that one: numbers drawn at random, counters, buffers that are replaced.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Put back what tracing a model, in this block, has changed in it.

    Raises:
        TypeError: it has replaced a buffer or changed a number of the model's own, or drawn random
            numbers.
    """
    modules = dict(model.named_modules())
    before = {name: _state(module) for name, module in modules.items()}
    try:
        with _random_numbers_kept():
            yield
        for name, module in modules.items():
            for changed in _changed(before[name], _state(module)):
                place = f"{name}.{changed}".lstrip(".")
                raise TypeError(f"every call replaces {place}, and a graph forgets that")
    finally:
        for name, module in modules.items():
            _restore(module, before[name])


def _state(module: nn.Module) -> dict[str, Any]:
    """A module's attributes and buffers, by their names."""
    return {**vars(module), **module._buffers}


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The names of the tensors that have been replaced and of the numbers that are others. What was
    None may be made in the first call, and a network may note what it computes."""
    tensors = {n for n, v in before.items() if isinstance(v, Tensor) and now.get(n) is not v}
    numbers = {n for n, v in before.items() if isinstance(v, int | float) and n in now}
    return sorted(tensors | {n for n in numbers if not _is_traced(now[n]) and now[n] != before[n]})


def _restore(module: nn.Module, before: dict[str, Any]) -> None:
    """Give a module its buffers and numbers back, and take values of the graph out of it."""
    for name in module._buffers:
        module._buffers[name] = before.get(name, module._buffers[name])
    attributes = vars(module)
    for name, value in list(attributes.items()):
        if _is_traced(value) and name not in before:
            del attributes[name]
        elif _is_traced(value) or isinstance(before.get(name), int | float):
            attributes[name] = before[name]


def _is_traced(value: Any) -> bool:
    """Whether a value stands for one in a graph that is being made."""
    return isinstance(value, fx.Proxy)


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Put the generators of random numbers back as they were.

    Raises:
        TypeError: the block has drawn numbers.
    """
    torchs, pythons, numpys = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
        same = torch.equal(torchs, torch.get_rng_state()) and pythons == random.getstate()
        drawn = zip(numpys, np.random.get_state(), strict=True)
        if not same or not all(np.array_equal(was, now) for was, now in drawn):
            raise TypeError(
                "it draws random numbers that do not depend on the images, and a graph keeps the "
                "first ones for ever: draw them like the images, as torch.rand_like(x) does"
            )
    finally:
        torch.set_rng_state(torchs)
        random.setstate(pythons)
        np.random.set_state(numpys)

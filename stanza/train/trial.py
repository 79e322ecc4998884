"""Tries the first batch, to see what the loss reaches and whether it is a mean over the samples."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from stanza.workers.loss import Loss
from stanza.workers.targets import Targets, rows
from systems.schema import InputError

SAMPLES = 2
"""How many samples are tried; batch normalisation wants more than one."""


def unreached(model: nn.Module, images: Tensor, targets: Targets, loss_sum: Loss) -> list[str]:
    """The names of the trainable parameters that get no gradient from the loss.

    Buffers and random numbers stay as they are.

    Args:
        images: images [b, C, H, W], of which a few are used.
        loss_sum: the loss, summed over the samples.

    Raises:
        InputError: the model or the loss fails, or the loss is no mean over the samples.
    """
    images, targets = images[:SAMPLES], rows(targets, slice(SAMPLES))
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    devices = [images.device.index] if images.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        try:
            outputs = torch.func.functional_call(model, buffers, (images,))
            loss = loss_sum(outputs, targets)
        except InputError:
            raise
        except Exception as error:  # the model's and the loss's own code runs here
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            shape = "x".join(map(str, images.shape[1:]))
            raise InputError(
                f"{type(model).__name__} or its loss fails on images of {shape}: {reason}"
            ) from error
    _check_mean(loss, outputs, targets, loss_sum)
    reached = _leaves(loss)
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in reached
    ]


def freeze(model: nn.Module, names: Iterable[str]) -> None:
    """Turn off the gradients of the parameters with these names: exchanges wait for all others."""
    for name in names:
        model.get_parameter(name).requires_grad_(False)


def _check_mean(loss: Tensor, outputs: object, targets: Targets, loss_sum: Loss) -> None:
    """Refuse a loss that is no number, that has no gradient, or that is a sum over the samples.

    With every sample twice a mean is the same, and our sum is twice what it was; a sum is twice,
    and ours four times.
    """
    if loss.numel() != 1 or not loss.requires_grad:
        kind = f"values of the shape {list(loss.shape)}" if loss.numel() != 1 else "no gradient"
        raise InputError(
            f"loss: returns {kind}; give the mean over the samples, such as nn.MSELoss()"
        )
    samples = len(tree_leaves(targets)[0])
    heads = tree_leaves(outputs)
    if not all(isinstance(head, Tensor) and head.shape[:1] == (samples,) for head in heads):
        return
    with torch.no_grad():
        twice = loss_sum(_twice(outputs), _twice(targets))
    if loss.item() != 0 and torch.isclose(twice, 4 * loss.detach(), rtol=1e-3):
        raise InputError(
            "loss: is a sum over the samples, and with the samples of several ranks a mean is "
            'wanted; give reduction="mean"'
        )


def _twice(values: object) -> object:
    """Repeat every sample."""
    return tree_map(lambda value: torch.cat([value, value]), values)


def _leaves(loss: Tensor) -> set[int]:
    """The identities of the parameters from which a value has been computed with a gradient."""
    leaves, seen = set[int](), set[object]()
    pending: list[object] = [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        following: Iterable[tuple[object, int]] = getattr(node, "next_functions", ())
        pending.extend(function for function, _ in following)
    return leaves

"""Refuses arguments of verification whose shapes, dtypes, devices or ranges do not fit.

Every function raises `InputError`, with one line that names the argument, the value and the remedy.
Values of tensors are not looked at, since that would make the host wait for the device.
"""

import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from speculative.verification import philox
from speculative.verification.filters import Filters, check_temperature
from speculative.verification.masks import words
from speculative.verification.rules import Calibrated, Coupled, Rule, Sigmoid
from systems.schema import InputError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_kinds(filters: object, seed: object, offset: object, **tensors: object) -> None:
    """Refuse what is no `Filters`, a seed or an offset that is neither an integer in its range nor
    a tensor, and what is no tensor."""
    if not isinstance(filters, Filters):
        raise InputError(f"filters {filters!r}: give Filters(top_k=..., top_p=..., min_p=...)")
    for name, value in tensors.items():
        check_tensor(name, value)
    for name, value in (("seed", seed), ("offset", offset)):
        if not isinstance(value, (Tensor, int)) and not hasattr(value, "__index__"):
            raise InputError(f"{name} {value!r}: give an integer, or int64 [B]")
    if not isinstance(offset, Tensor) and not 0 <= operator.index(offset) < 2**32:  # type: ignore[arg-type]
        raise InputError(f"offset {offset}: give 0 to 2^32 - 1")


def check_temperatures(temperature: object, batch: int, device: torch.device) -> None:
    """Refuse a temperature that is neither a number in its range nor a tensor [B]."""
    if isinstance(temperature, Tensor):
        check("temperature", temperature, (batch,), torch.float32, device)
    else:
        check_temperature(temperature)


def check_filters(filters: Filters, shape: Sequence[int], device: torch.device) -> None:
    """Refuse filters whose tensors are not [B], and a mask that does not fit logits of the shape
    [B, rows, V]."""
    batch, rows, vocabulary = shape
    numbers: tuple[Any, ...] = filters.numbers
    dtypes = {"top_k": torch.int64, "top_p": torch.float32, "min_p": torch.float32}
    for (name, dtype), value in zip(dtypes.items(), numbers, strict=True):
        if not isinstance(value, (int, float, Real)):  # the first two are known at once
            check(name, value, (batch,), dtype, device)
    check("allowed", filters.allowed, (batch, rows, words(vocabulary)), torch.int32, device)


def check_verification(arguments: Mapping[str, Any], rule: Rule, filters: Filters) -> None:
    """Refuse arguments of `verify`, by the kernels' names, that do not fit each other."""
    target, draft, tokens = (arguments[name] for name in ("target", "draft", "tokens"))
    check_logits(target, draft, tokens)
    if draft is None and isinstance(rule, (Sigmoid, Calibrated)):
        raise InputError(
            f"draft_logits None: the rule {rule.name} compares two logits; give them, or Exact()"
        )
    (batch, gamma), vocabulary, device = tokens.shape, target.shape[-1], target.device
    numbers = [gamma + vocabulary + philox.groups(vocabulary)]
    if isinstance(rule, Coupled):
        numbers = [gamma + 1, vocabulary]
    check_rows(arguments, filters, numbers, target.shape, device)
    check("lengths", arguments["lengths"], (batch,), torch.int64, device)
    notes = arguments["log_probabilities"]
    check("log_probabilities", notes, (batch, gamma + 1), torch.float32, device)
    if notes is not None and not notes.is_contiguous():
        raise InputError("log_probabilities is not contiguous; give torch.empty(B, G + 1)")


def check_rows(
    by_row: Mapping[str, object],
    filters: Filters,
    numbers: Sequence[int],
    shape: Sequence[int],
    device: torch.device,
) -> None:
    """Refuse what is given for every sequence (`kernels.by_row`) and does not fit logits of the
    shape [B, rows, V]; every sequence takes `numbers` of uniforms."""
    batch = shape[0]
    check_temperatures(by_row["temperatures"], batch, device)
    check_filters(filters, shape, device)
    check("uniforms", by_row["uniforms"], (batch, *numbers), torch.float32, device)
    check("seed", by_row["seeds"], (batch,), torch.int64, device)
    check("offset", by_row["offsets"], (batch,), torch.int64, device)


def check_tensor(name: str, value: object) -> Tensor:
    """The value, which is refused if it is not a tensor."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}; give a tensor")
    return value


def check_logits(target: Tensor, draft: Tensor | None, tokens: Tensor) -> None:
    """Refuse logits and draft tokens whose shapes, dtypes or devices do not fit each other."""
    named = {"target_logits": target, "draft_tokens": tokens}
    if draft is not None:
        named["draft_logits"] = draft
    for name, value in named.items():
        check_tensor(name, value)
    wrong = None
    if target.dim() != 3 or tokens.dim() != 2 or (draft is not None and draft.dim() != 3):
        wrong = "give them as [B, G + 1, V], [B, G, V] and [B, G]"
    elif tokens.shape[1] == 0:
        wrong = "gamma is 0; draft a token at least, or use sample"
    elif target.shape[2] == 0 or (draft is not None and target.shape[2] != draft.shape[2]):
        wrong = (
            "target and draft must share one vocabulary; "
            "see speculative.verification.vocabulary.fitted"
        )
    else:
        rows = tokens.shape if draft is None else draft.shape
        if target.shape[0] != rows[0] or target.shape[1] != rows[1] + 1:
            wrong = "give them as [B, G + 1, V], [B, G, V] and [B, G]"
    if wrong:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in named.items())
        raise InputError(f"{shapes}: {wrong}")
    check_dtype("target_logits", target)
    if draft is not None:
        check("draft_logits", draft, tuple(draft.shape), target.dtype, target.device)
    batch, gamma = target.shape[0], target.shape[1] - 1
    check("draft_tokens", tokens, (batch, gamma), torch.int64, target.device)


def check_dtype(name: str, logits: Tensor) -> None:
    """Refuse logits of a dtype that the kernels do not read."""
    if logits.dtype not in DTYPES:
        raise InputError(f"{name} of {logits.dtype}: give float32, float16 or bfloat16")


def check(
    name: str, tensor: object, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Refuse a tensor of another shape, dtype or device; None is no tensor and passes."""
    if tensor is None:
        return
    given = check_tensor(name, tensor)
    if tuple(given.shape) != shape or given.dtype != dtype:
        raise InputError(
            f"{name}: {given.dtype} {list(given.shape)} does not fit; give {dtype} {list(shape)}"
        )
    if given.device != device:
        raise InputError(f"{name} is on {given.device}, target_logits on {device}; move one")

"""What a verifier is to the audit: how it is called, and how its answer is read."""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from speculative.verification.filters import Filters
from systems.schema import InputError

Verifier = Callable[[Tensor, Tensor, Tensor, torch.Generator], Any]
"""Takes target logits [B, G + 1, V], draft logits [B, G, V], draft tokens int64 [B, G] and a
generator on their device. Returns the number of accepted tokens and the next token, integers [B]
each; or the emitted tokens, integers [B, G + 1], with -1 after the last one of every sequence.

One that filters takes `filters` too, by name (`speculative.verification.filters.Filters`, of
numbers): it gets all logits and drafts that were sampled under the same filters."""

EMPTY = -1
"""Stands where a sequence has no further token."""


def emitted(
    verifier: Verifier, target: Tensor, draft: Tensor, tokens: Tensor, generator: torch.Generator
) -> Tensor:
    """The tokens that a verifier emits: int64 [B, G + 1], with -1 after the last one.

    A next token below 0 becomes -1, so that a sequence at fault ends early or is empty.

    Raises:
        InputError: the answer is of no known form.
    """
    found = verifier(target, draft, tokens, generator)
    if isinstance(found, Tensor):
        return _from_tokens(found, tokens)
    if isinstance(found, (tuple, list)) and len(found) >= 2:
        accepted, following = found[:2]
        return _from_counts(accepted, following, tokens)
    raise InputError(
        f"verifier: returned a {type(found).__name__}; give (accepted, next_token), or the emitted "
        "tokens [B, G + 1] with -1 after the last"
    )


def takes_filters(verifier: Verifier) -> bool:
    """Whether a verifier takes `filters`."""
    try:
        return "filters" in inspect.signature(verifier).parameters
    except ValueError:  # of functions that say nothing about their arguments
        return False


def under(verifier: Verifier, filters: Filters | None) -> Verifier:
    """The verifier with these filters; as it is without any."""
    return verifier if filters is None else partial(verifier, **{"filters": filters})


def one_by_one(verifier: Verifier) -> Verifier:
    """The same for batches, of a verifier that takes a single sequence."""

    @wraps(verifier)  # it takes filters if the other does
    def verify(
        target: Tensor, draft: Tensor, tokens: Tensor, generator: torch.Generator, **options: Any
    ) -> Tensor:
        decide = partial(verifier, **options)
        rows = zip(target.split(1), draft.split(1), tokens.split(1), strict=True)
        return torch.cat([emitted(decide, *row, generator) for row in rows])

    return verify


def _from_tokens(found: Tensor, tokens: Tensor) -> Tensor:
    """Emitted tokens as they were returned, with -1 everywhere after the first -1."""
    batch, gamma = tokens.shape
    _check("the emitted tokens", found, (batch, gamma + 1))
    held = (found >= 0).cumprod(1).bool()
    return found.long().masked_fill(~held, EMPTY)


def _from_counts(accepted: Any, following: Any, tokens: Tensor) -> Tensor:
    """Emitted tokens from the number of accepted ones and the token after them, [B] each."""
    batch, gamma = tokens.shape
    _check("accepted", accepted, (batch,))
    _check("next_token", following, (batch,))
    n = accepted.to(tokens.device).long()[:, None]
    if int(n.min()) < 0 or int(n.max()) > gamma:
        raise InputError(f"verifier: accepted is outside 0 to {gamma}, the number of draft tokens")
    places = torch.arange(gamma + 1, device=tokens.device)
    padded = torch.nn.functional.pad(tokens, (0, 1), value=EMPTY).masked_fill(places > n, EMPTY)
    last = following.to(tokens.device).long().clamp(min=EMPTY)
    return padded.scatter(1, n, last[:, None])


def _check(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Refuse a part of an answer that is no tensor of integers, or of another shape."""
    if not isinstance(value, Tensor):
        raise InputError(f"verifier: {name} is a {type(value).__name__}; return a tensor")
    if tuple(value.shape) != shape or value.is_floating_point() or value.dtype == torch.bool:
        raise InputError(
            f"verifier: {name} is {value.dtype} {list(value.shape)}; return integers {list(shape)}"
        )

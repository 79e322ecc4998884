"""What our verification is measured against: transformers' function, and two plain softmaxes."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from systems.schema import InputError


def transformers_region() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """transformers' verification of one sequence: (target, draft, tokens) -> accepted [1].

    Raises:
        InputError: transformers is not installed, or its function takes arguments unknown here.
    """
    try:
        from transformers.generation import utils
    except ImportError:
        raise InputError(
            "transformers is not installed; pip install 'transformers>=4.57'"
        ) from None
    function: Any = utils._speculative_sampling
    names = list(inspect.signature(function).parameters)
    start = ["candidate_input_ids", "candidate_logits", "candidate_length", "new_logits"]
    if names[:4] != start:
        raise InputError(f"transformers' _speculative_sampling takes {names}: an unknown version")
    # older versions want to know whether the draft ended the sequence
    rest = (False,) if names[4:5] == ["is_done_candidate"] else ()

    def verify(target: Tensor, draft: Tensor, tokens: Tensor) -> Tensor:
        _, matches = function(tokens, draft, tokens.shape[1], target, *rest)
        return torch.as_tensor(matches).view(1)

    return verify


def two_softmaxes(target: Tensor, draft: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook's verification of a batch, without host synchronisation.

    Returns:
        accepted, next_token: int64 [B].
    """
    gamma = tokens.shape[1]
    p, q = target.softmax(-1, torch.float32), draft.softmax(-1, torch.float32)
    ratio = (p[:, :gamma].gather(-1, tokens[..., None]) / q.gather(-1, tokens[..., None]))[..., 0]
    accepted = (torch.rand_like(ratio) < ratio).cumprod(-1).sum(-1)
    rows = accepted[:, None, None].expand(-1, 1, p.shape[-1])
    last = p.gather(1, rows)[:, 0]
    drafted = q.gather(1, rows.clamp(max=gamma - 1))[:, 0]
    residual = torch.where((accepted < gamma)[:, None], (last - drafted).clamp(min=0), last)
    return accepted, (residual / torch.empty_like(residual).exponential_()).argmax(-1)

"""Greedy decoding: the likeliest token is taken, and a draft token stays if it is that token.

Nothing is left to chance here, so there are no ratios, no residual and no rule: the text is the one
that the target would write alone, whatever the draft.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from speculative.verification.status import DRAFT_LOGITS, TARGET_LOGITS


def likeliest(logits: Tensor) -> Tensor:
    """The token of the greatest logit, the lowest number among equals, int64 [...].

    Args:
        logits: floating point [..., V].

    Returns:
        -1 for a row that holds NaN or +inf or no finite logit.
    """
    values, tokens = logits.max(-1)
    return tokens.where(values.abs() < math.inf, -1)


def match(logits: Tensor, draft_tokens: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
    """Accept draft tokens while they are the target's likeliest; its next one follows them.

    Args:
        logits: the target's, [B, G + 1, V].
        draft_tokens: int64 [B, G]; -1 where the draft's logits were at fault.
        lengths: how many draft tokens each sequence has, int64 [B]; None: all have G.

    Returns:
        Accepted, next token and status (`speculative.verification.verify`), int64 [B] each.
    """
    best = likeliest(logits)
    same = (best[:, :-1] == draft_tokens) & (draft_tokens >= 0)
    accepted = same.cumprod(1).sum(1)
    token = best.gather(1, accepted[:, None])[:, 0]
    rejected = F.pad(draft_tokens, (0, 1)).gather(1, accepted[:, None])[:, 0]
    bad_draft = rejected < 0 if lengths is None else (rejected < 0) & (accepted < lengths)
    status = (token < 0) * TARGET_LOGITS | bad_draft * DRAFT_LOGITS
    return [accepted, token, status]

"""Brings the vocabularies of target and draft to one width: one tokenizer, different padding.

Checkpoints of one family pad their vocabularies to different widths: Qwen2.5 has one tokenizer, but
0.5B gives 151,936 logits and 7B gives 152,064. Verification stays exact if the draft's logits are
brought to the target's width: a token that the draft lacks has probability 0 in it, a token that
the target lacks is never drafted.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def vocabulary(model: Any) -> int:
    """How many tokens a model has: the width of its logits."""
    return int(model.config.get_text_config(decoder=True).vocab_size)


def encoder_vocabulary(model: Any) -> int:
    """How many tokens a model's encoder can read. It may differ from the decoder's number:
    translators may have one vocabulary for each language."""
    encoder = model.get_encoder()
    owner = encoder if hasattr(encoder, "get_input_embeddings") else model
    count = getattr(owner.get_input_embeddings(), "num_embeddings", None)
    return vocabulary(model) if count is None else int(count)


def fitted(logits: Tensor, count: int) -> Tensor:
    """Logits [..., V] made [..., count] wide: missing tokens get -inf, surplus ones are cut off."""
    missing = count - logits.shape[-1]
    return F.pad(logits, (0, missing), value=-torch.inf) if missing else logits


def readable(tokens: Tensor, count: int) -> Tensor:
    """Tokens (int64 of any shape) that a model with `count` tokens can read: those beyond its last
    token are replaced by it.

    That is allowed because a draft may read anything: whatever it then proposes is verified.
    """
    return tokens.clamp(max=count - 1)

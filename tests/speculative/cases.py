"""Random logits and drafts for tests, and the reference's decisions about them."""

import torch
from torch import Tensor

from speculative import reference

Case = tuple[Tensor, Tensor, Tensor]


def drafted(batch: int, gamma: int, vocabulary: int, seed: int = 0, *, spread: float = 3.0) -> Case:
    """Target logits, draft logits near them, and tokens sampled from the draft."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(batch, gamma + 1, vocabulary, generator=generator) * spread
    draft = target[:, :gamma] + torch.randn(batch, gamma, vocabulary, generator=generator)
    flat = draft.softmax(-1).flatten(0, 1)
    tokens = flat.multinomial(1, generator=generator).view(batch, gamma)
    return target, draft, tokens


def referred(
    case: Case, uniforms: Tensor, lengths: Tensor | None = None, **options: object
) -> list[reference.Decision]:
    """The reference's decision for every sequence."""
    found = []
    for b, (target, draft, tokens) in enumerate(zip(*case, strict=True)):
        gamma = len(draft)
        n = gamma if lengths is None else int(lengths[b])
        u = torch.cat([uniforms[b, :n], uniforms[b, gamma:]])
        rows = target[: n + 1].double(), draft[:n].double(), tokens[:n]
        found.append(reference.verify(*rows, u, **options))  # type: ignore[arg-type]
    return found

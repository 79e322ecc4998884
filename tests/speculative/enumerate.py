"""The exact distribution of a model's continuations, one forward pass per prefix."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats  # type: ignore[import-untyped]
import torch

from speculative.sampling import Sampling


@torch.inference_mode()
def continuations(
    model: Any,
    given: Mapping[str, torch.Tensor],
    prompt: Sequence[int],
    length: int,
    sampling: Sampling | None = None,
    end: int | None = None,
) -> dict[tuple[int, ...], float]:
    """Probability of every continuation of `length` tokens, or up to the end token.

    Args:
        given: inputs of one sequence.
        prompt: what the (decoder's) tokens start with.
    """
    sampling = sampling or Sampling()
    found: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    for position in range(length):
        grown: dict[tuple[int, ...], float] = {}
        for prefix, probability in open_.items():
            tokens = torch.tensor([[*prompt, *prefix]])
            if model.config.is_encoder_decoder:
                logits = model(**given, decoder_input_ids=tokens).logits
            else:
                logits = model(input_ids=tokens).logits
            kept = sampling.restrict(logits[:, -1:], begins=position == 0)
            row = (kept[0, 0].double() / sampling.temperature).softmax(-1).tolist()
            for token, p in enumerate(row):
                into = found if token == end else grown
                if p > 0:
                    into[(*prefix, token)] = probability * p
        open_ = grown
    return found | open_


def p_value(expected: Mapping[tuple[int, ...], float], seen: Sequence[Sequence[int]]) -> float:
    """Chi-square over complete outputs; rare ones share a cell. 0 if an impossible one was seen."""
    counts = {tuple(tokens): 0 for tokens in expected}
    for tokens in seen:
        if tuple(tokens) not in counts:
            return 0.0
        counts[tuple(tokens)] += 1
    total = len(seen)
    common = [key for key, p in expected.items() if p * total >= 10]
    observed = [counts[key] for key in common]
    wanted = [expected[key] * total for key in common]
    if (rest := total - sum(wanted)) >= 5:
        observed.append(total - sum(observed))
        wanted.append(rest)
    scale = np.sum(observed) / np.sum(wanted)
    return float(scipy.stats.chisquare(observed, np.array(wanted) * scale).pvalue)

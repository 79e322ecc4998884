"""The exact distribution of a model's continuations, one forward pass per prefix."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from speculative.decoding.sampling import Sampling
from speculative.experiments import chi_square


@torch.inference_mode()
def continuations(
    model: Any,
    given: Mapping[str, torch.Tensor],
    prompt: Sequence[int],
    length: int,
    sampling: Sampling | None = None,
    end: int | None = None,
) -> dict[tuple[int, ...], float]:
    """The probability of every continuation of `length` tokens, or up to the end token.

    Args:
        given: the model's inputs for one sequence, besides the decoder's tokens.
        prompt: the tokens that the (decoder's) sequence starts with.
        sampling: temperature and restrictions; plain sampling by default.
        end: the token that ends a continuation, if there is one.
    """
    sampling = sampling or Sampling()
    ended: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    for position in range(length):
        grown: dict[tuple[int, ...], float] = {}
        for prefix, probability in open_.items():
            tokens = torch.tensor([[*prompt, *prefix]])
            if model.config.is_encoder_decoder:
                logits = model(**given, decoder_input_ids=tokens).logits
            else:
                logits = model(input_ids=tokens).logits
            kept = sampling.limit(sampling.suppress(logits[:, -1:], begins=position == 0))
            row = (kept[0, 0].double() / (sampling.temperature or 1.0)).softmax(-1).tolist()
            for token, p in enumerate(row):
                into = ended if token == end else grown
                if p > 0:
                    into[(*prefix, token)] = probability * p
        open_ = grown
    return ended | open_


def p_value(expected: Mapping[tuple[int, ...], float], seen: Sequence[Sequence[int]]) -> float:
    """The p-value of a chi-square test over complete outputs; 0 if an impossible one was seen."""
    counts = Counter(map(tuple, seen))
    if counts.keys() - expected.keys():
        return 0.0
    wanted = [probability * len(seen) for probability in expected.values()]
    return chi_square.p_value([counts[key] for key in expected], wanted)


def tiny_llama(seed: int, vocabulary: int = 3) -> Any:
    """A Llama of two layers with random weights, so large that models of two seeds disagree."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def draft_always(draft: Any, gamma: int) -> None:
    """Let transformers' loop take `gamma` draft tokens a step, however unsure the draft is."""
    draft.generation_config.update(
        num_assistant_tokens=gamma,
        num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.0,
    )

"""Tiny transformers models with random weights, large enough to disagree."""

import copy
from typing import Any

import torch
import transformers as hf

from speculative.experiments.enumeration import tiny_llama

KINDS = ("llama", "gpt2", "t5", "whisper")


def make(kind: str, seed: int, *, vocabulary: int = 16, deviation: float = 1.2) -> Any:
    """A model of one kind whose logits have about this standard deviation."""
    torch.manual_seed(seed)
    build = {"llama": _llama, "gpt2": _gpt2, "t5": _t5, "whisper": _whisper}[kind]
    model = build(vocabulary)
    tokens = torch.randint(vocabulary, (1, 12))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 1.0 if "bias" in name else 0.3)
        given = inputs(kind, 1, vocabulary=vocabulary)
        if model.config.is_encoder_decoder:
            given["decoder_input_ids"] = tokens
        else:
            given = {"input_ids": tokens}
        head = model.get_output_embeddings().weight
        head.mul_(deviation / model.eval()(**given).logits.std(-1).mean())
    return model


def _llama(vocabulary: int) -> Any:
    return tiny_llama(0, vocabulary)  # `make` draws its weights anew


def _gpt2(vocabulary: int) -> Any:
    config = hf.GPT2Config(
        vocab_size=vocabulary,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=128,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    return hf.GPT2LMHeadModel(config)


def _t5(vocabulary: int) -> Any:
    t5_config: Any = hf.T5Config  # its type hints lack what every config takes
    config = t5_config(
        vocab_size=vocabulary,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=8,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return hf.T5ForConditionalGeneration(config)


def _whisper(vocabulary: int) -> Any:
    config = hf.WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=8,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=8,
        max_target_positions=128,
        decoder_start_token_id=0,
        bos_token_id=0,
        pad_token_id=0,
        eos_token_id=None,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        tie_word_embeddings=False,
    )
    return hf.WhisperForConditionalGeneration(config)


def inputs(
    kind: str, batch: int, *, seed: int = 0, vocabulary: int = 16
) -> dict[str, torch.Tensor]:
    """Inputs of different lengths, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "whisper":
        return {"input_features": torch.randn(batch, 8, 16, generator=generator)}
    lengths = torch.randint(1, 7, (batch, 1), generator=generator)
    mask = (torch.arange(6) >= 6 - lengths).long()
    tokens = torch.randint(vocabulary, (batch, 6), generator=generator) * mask
    return {"input_ids": tokens, "attention_mask": mask}


def rows(given: dict[str, torch.Tensor], index: list[int]) -> dict[str, torch.Tensor]:
    """Some sequences of the inputs."""
    return {name: x[index] for name, x in given.items()}


def padded_right(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same inputs, padded on the right."""
    flipped = {name: x.clone() for name, x in given.items()}
    for row, n in enumerate(given["attention_mask"].sum(1).tolist()):
        for name, x in given.items():
            flipped[name][row] = x[row].roll(n)
    return flipped


def with_positions(model: Any, count: int) -> Any:
    """The same GPT-2 or Whisper, with no more positions than that."""
    cut = copy.deepcopy(model)
    base = cut.base_model
    places = base.decoder.embed_positions if cut.config.is_encoder_decoder else base.wpe
    places.weight.data = places.weight.data[:count].clone()
    cut.config.max_position_embeddings = cut.config.max_target_positions = count
    return cut

"""Every family of transformers that can be built tiny from its config alone."""

import copy
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 48
LAYERS = 4
WIDTH = 32
HEADS = 4

TINY: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "encoder_vocab_size", "decoder_vocab_size"), VOCABULARY),
    **dict.fromkeys(("src_vocab_size", "tgt_vocab_size", "ngram_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embed_dim"), WIDTH),
    **dict.fromkeys(("n_embed", "embedding_size", "word_embed_proj_dim", "lru_width"), WIDTH),
    **dict.fromkeys(("attention_hidden_size", "hidden_dim", "input_embedding_size"), WIDTH),
    **dict.fromkeys(("output_embedding_size", "encoder_hidden_size"), WIDTH),
    **dict.fromkeys(("intermediate_size", "d_ff", "n_inner", "ffn_dim", "dff", "dim_ff"), WIDTH),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_inner", "mlp_hidden_size"), WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "feed_forward_size", "ffn_hidden_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers",), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "attention_head_size", "d_kv", "dim_head"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 128),
    **dict.fromkeys(("max_encoder_position_embeddings", "max_decoder_position_embeddings"), 128),
    **dict.fromkeys(("max_source_positions", "max_target_positions", "context_length"), 128),
    **dict.fromkeys(("sliding_window", "window_size", "attention_chunk_size"), 5),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "qk_head_dim"), 8),
    "state_size": 4,
    "n_groups": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "decoder_start_token_id": 2,
    "tie_word_embeddings": False,
    "is_decoder": True,
}
"""What makes configs small, by the names that families give to their sizes."""


def mappings() -> dict[str, tuple[str, str]]:
    """Family and kind ("causal" or "seq2seq") of every family: its model type and its class."""
    found = {}
    for kind, mapping in (
        ("causal", modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        ("seq2seq", modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    ):
        for family, name in mapping.items():
            found[f"{family} {kind}"] = (family, name)
    return found


def config_of(cls: Any, changes: dict[str, Any]) -> Any:
    names = set(inspect.signature(cls.__init__).parameters)
    if dataclasses.is_dataclass(cls):
        names |= {field.name for field in dataclasses.fields(cls)}
    given = {name: value for name, value in TINY.items() if name in names}
    for name, sub in getattr(cls, "sub_configs", {}).items():
        if isinstance(sub, type) and issubclass(sub, PreTrainedConfig) and name in names:
            given[name] = config_of(sub, {}).to_dict()
    return cls(**{**given, **changes})

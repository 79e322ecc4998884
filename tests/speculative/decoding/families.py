"""Families of transformers, built tiny from their configs, and their right greedy texts."""

import copy
import dataclasses
import inspect
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 48
WIDTH = 32
PADDING = 0
LARGEST = 20_000_000
"""Models with more parameters take more than a second to build."""
CLEAR = 1e-3
"""Standard deviations by which a token must be the likeliest, so that rounding decides nothing."""

SIZES: dict[int, str] = {
    VOCABULARY: "vocab_size encoder_vocab_size decoder_vocab_size src_vocab_size tgt_vocab_size "
    "audio_vocab_size unpadded_vocab_size vocab_size_per_layer_input",
    WIDTH: "hidden_size d_model n_embd dim emb_dim embed_dim n_embed embedding_size lru_width "
    "word_embed_proj_dim attention_hidden_size hidden_dim input_embedding_size "
    "output_embedding_size intermediate_size d_ff n_inner ffn_dim dff dim_ff encoder_ffn_dim "
    "decoder_ffn_dim mlp_hidden_size moe_intermediate_size feed_forward_size ffn_hidden_size "
    "shared_expert_intermediate_size expert_ffn_hidden_size moe_shared_expert_intermediate_size",
    4: "num_hidden_layers num_layers n_layer n_layers num_attention_heads num_heads n_head n_heads "
    "encoder_attention_heads decoder_attention_heads num_encoder_attention_heads "
    "num_decoder_attention_heads num_experts num_local_experts n_routed_experts state_size "
    "num_attn_heads",
    2: "encoder_layers decoder_layers num_decoder_layers num_encoder_layers num_key_value_heads "
    "num_kv_heads linear_num_heads num_experts_per_tok moe_topk experts_per_token",
    1: "n_group topk_group n_shared_experts bos_token_id n_groups",
    8: "head_dim linear_head_dim attention_head_size d_kv dim_head qk_nope_head_dim v_head_dim "
    "hidden_size_per_layer_input patch_size",
    16: "q_lora_rank kv_lora_rank o_lora_rank image_size",
    128: "max_position_embeddings n_positions max_seq_len n_ctx max_encoder_position_embeddings "
    "max_decoder_position_embeddings max_source_positions max_target_positions context_length",
    5: "sliding_window window_size attention_chunk_size",
}
TINY: dict[str, Any] = {
    **{name: size for size, names in SIZES.items() for name in names.split()},
    "pad_token_id": PADDING,
    "eos_token_id": None,
    "decoder_start_token_id": 2,
    "tie_word_embeddings": False,
    "is_decoder": True,
}
"""What makes configs small, by the names that families give to their sizes."""
CHANGES: dict[str, dict[str, Any]] = {
    **{
        name: {"qk_rope_head_dim": 8, "head_dim": 8, "num_key_value_heads": 4}
        for name in (
            *("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "sarvam_mla"),
            *("axk1", "axk2", "glm_moe_dsa", "minicpm3", "youtu"),
        )
    },
    **{name: {"rotary_dim": 4} for name in ("codegen", "gptj")},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8},
    **{name: {"num_key_value_heads": 4} for name in ("dots3_note", "dots3_note_text")},
    "mamba2": {"num_heads": 8, "head_dim": 8, "chunk_size": 8},
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    },
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
        "layer_types": ["mamba", "attention"] * 2,
    },
    "led": {"attention_window": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {"attention_head_dim": 16, "attention_hidden_size": 64, "num_key_value_heads": 4},
    "xmod": {"default_language": "en_XX"},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "local"],
        "attention_head_size": 8,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "qwen3_asr": {"eos_token_id": 3},
    "prophetnet": {"disable_ngram_loss": True},
}
"""What single families need besides."""


def families() -> dict[str, tuple[str, str]]:
    """Config and model class of every causal and encoder-decoder family, by a name for it."""
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    seq2seq = modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    found = {family: (family, str(name)) for family, name in causal.items()}
    return found | {f"{family} seq2seq": (family, str(name)) for family, name in seq2seq.items()}


def build(family: str, name: str, seed: int = 0) -> Any:
    """A tiny model whose texts vary; ValueError if it would not be tiny."""
    cls: Any = getattr(transformers, name)
    config_class = getattr(cls, "config_class", None) or CONFIG_MAPPING[family]
    config = _config(config_class, CHANGES.get(family, {}))
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in cls(config).parameters())
    if size > LARGEST:
        raise ValueError(f"has {size / 1e6:.0f} million parameters")
    return lively(cls, config, seed)


def lively(cls: Any, config: Any, seed: int = 0) -> Any:
    """A model with random weights, large enough for its texts to vary, that never ends them."""
    torch.manual_seed(seed)
    model = cls(copy.deepcopy(config)).eval()
    if hasattr(model, "set_default_language"):
        model.set_default_language("en_XX")
    settings = model.generation_config
    settings.eos_token_id = settings.forced_eos_token_id = settings.forced_bos_token_id = None
    settings.decoder_start_token_id, settings.num_beams = 2, 1
    head = model.get_output_embeddings()
    with torch.no_grad():
        if head is not None:
            head.weight = torch.nn.Parameter(torch.randn_like(head.weight) * head.weight.std())
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


def _config(cls: Any, changes: dict[str, Any]) -> Any:
    names = set(inspect.signature(cls.__init__).parameters)
    if dataclasses.is_dataclass(cls):
        names |= {field.name for field in dataclasses.fields(cls)}
    given = {name: value for name, value in TINY.items() if name in names}
    for name, part in getattr(cls, "sub_configs", {}).items():
        if isinstance(part, type) and name in names and hasattr(part, "model_type"):
            given[name] = _config(part, {}).to_dict()
    return cls(**{**given, **changes})


def perturbed(model: Any, by: float = 0.2) -> Any:
    """A copy that agrees with the model often, not always."""
    draft = copy.deepcopy(model)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in draft.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn_like(parameter) * parameter.std() * by)
    return draft


def batch(rows: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    """Token rows of different lengths, padded on one side."""
    width = max(map(len, rows))
    tokens, masks = [], []
    for row in rows:
        padding = [PADDING] * (width - len(row))
        zeros, ones = [0] * len(padding), [1] * len(row)
        tokens.append(padding + row if side == "left" else row + padding)
        masks.append(zeros + ones if side == "left" else ones + zeros)
    return {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(masks)}


@torch.no_grad()
def own_text(model: Any, row: list[int], count: int) -> list[int]:
    """The greedy text by the model's own passes over the whole text, without a cache.

    It ends before a token that is not clearly the likeliest.
    """
    encoder = {"input_ids": torch.tensor([row])} if model.config.is_encoder_decoder else {}
    name = "decoder_input_ids" if encoder else "input_ids"
    text = [2] if encoder else list(row)
    options: dict[str, Any] = {}
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    start = len(text)
    while len(text) < start + count:
        logits = model(**encoder, **{name: torch.tensor([text])}, **options).logits[0, -1]
        if not logits.isfinite().all():
            break
        logits[PADDING] = -torch.inf
        (first, second), tokens = logits.topk(2)
        if first - second < CLEAR * logits[PADDING + 1 :].std():
            break
        text.append(int(tokens[0]))
    return text[start:]

"""Small targets and smaller drafts, with the tokenizer and features that both share.

Summarization: T5 over a byte-level BPE vocabulary. Transcription: Whisper over the words that are
said. Sizes are such that two cores train them in minutes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

Task = Literal["summarize", "transcribe"]
Role = Literal["target", "draft"]

MOST_DOCUMENT_TOKENS = 64
MOST_SUMMARY_TOKENS = 28
SUMMARY_VOCABULARY = 2048
MEL_BINS = 40
HOP_SAMPLES = 320
"""20 ms at 16 kHz, twice Whisper's: half the frames to encode."""
CHUNK_S = 4
MOST_WORDS = 32


def summary_tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level BPE tokenizer of `SUMMARY_VOCABULARY` tokens that ends texts with </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SUMMARY_VOCABULARY,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        model_max_length=MOST_DOCUMENT_TOKENS,
    )


def word_tokenizer(words: Sequence[str]) -> Any:
    """A tokenizer of whole words, Whisper's control tokens after them, as Whisper expects."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    control = ["<unk>", "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    vocabulary = {word: number for number, word in enumerate([*sorted(set(words)), *control])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<|startoftranscript|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|notimestamps|>"],
    )


def feature_extractor() -> Any:
    """Log-mel spectrograms of `CHUNK_S` seconds."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(
        feature_size=MEL_BINS, hop_length=HOP_SAMPLES, chunk_length=CHUNK_S, n_fft=400
    )


def t5(role: Role, vocabulary: int) -> Any:
    """A T5 of about 1.1 M (target) or 0.2 M (draft) parameters."""
    from transformers import T5Config, T5ForConditionalGeneration

    t5_config: Any = T5Config  # its type hints lack what every config takes
    width, layers = (128, 2) if role == "target" else (64, 1)
    config = t5_config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=32,
        d_ff=2 * width,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=width // 32,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def whisper(role: Role, tokenizer: Any) -> Any:
    """A Whisper of about 0.75 M (target) or 0.12 M (draft) parameters."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    width, encoder, decoder = (128, 2, 2) if role == "target" else (64, 1, 1)
    start, no_timestamps = tokenizer.convert_tokens_to_ids(
        ["<|startoftranscript|>", "<|notimestamps|>"]
    )
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=MEL_BINS,
        d_model=width,
        encoder_layers=encoder,
        decoder_layers=decoder,
        encoder_attention_heads=width // 32,
        decoder_attention_heads=width // 32,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        max_source_positions=CHUNK_S * 16000 // HOP_SAMPLES // 2,
        max_target_positions=MOST_WORDS + 32,
        bos_token_id=start,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    # A config of its own: one derived from the model's loses what only Whisper knows when loaded.
    model.generation_config = GenerationConfig(
        bos_token_id=start,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=start,
        no_timestamps_token_id=no_timestamps,
        is_multilingual=False,
        max_length=MOST_WORDS,
    )
    return model


def save(folder: Path, model: Any, *processors: Any) -> None:
    """Write a model and what prepares its inputs where `from_pretrained` finds them."""
    for part in (model, *processors):
        part.save_pretrained(folder)

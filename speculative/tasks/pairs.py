"""Makes small targets and smaller drafts, with the tokenizer and features that both share.

Pairs for summarization are T5s over a byte-level BPE vocabulary, pairs for transcription are
Whispers over the words that are said, pairs for pronouncing are T5s over letters and phones.
"""

import errno
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speculative.options import Task
from systems import disk

Role = Literal["target", "draft"]
Size = Literal["small", "tiny"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a model."""

    width: int
    """The width of its states, a multiple of 32: every head is 32 wide."""
    encoder_layers: int
    decoder_layers: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The sizes of a pair's models, and how they are trained."""

    shapes: Mapping[Role, Shape]
    steps: Mapping[Role, int]
    """How many steps each is trained, of 32 samples."""
    learning_rate: float
    samples: int
    """The most training samples."""
    data: str
    """The source of the samples, as `docstrings.read_pairs`, `speech.read_utterances` and
    `cmudict.read_entries` take it."""
    heard_s: int = 0
    """The longest speech that a transcribing model hears, in seconds."""


SMALL_SHAPES: Mapping[Role, Shape] = {
    "target": Shape(width=128, encoder_layers=2, decoder_layers=2),
    "draft": Shape(width=64, encoder_layers=1, decoder_layers=1),
}
TINY_SHAPES: Mapping[Role, Shape] = {
    "target": Shape(width=64, encoder_layers=2, decoder_layers=4),
    "draft": Shape(width=32, encoder_layers=1, decoder_layers=1),
}
RECIPES: Mapping[Size, Mapping[Task, Recipe]] = {
    "small": {
        "summarize": Recipe(
            shapes=SMALL_SHAPES,
            steps={"target": 1500, "draft": 2500},
            learning_rate=3e-3,
            samples=20_000,
            data="installed",
        ),
        "transcribe": Recipe(
            shapes=SMALL_SHAPES,
            steps={"target": 1200, "draft": 1500},
            learning_rate=1.5e-3,
            samples=6000,
            data="recordings",
            heard_s=4,
        ),
        "pronounce": Recipe(
            shapes=SMALL_SHAPES,
            steps={"target": 6000, "draft": 4000},
            learning_rate=1e-3,
            samples=200_000,
            data="cmudict",
        ),
    },
    "tiny": {
        "summarize": Recipe(
            shapes={
                "target": Shape(width=64, encoder_layers=1, decoder_layers=4),
                "draft": Shape(width=32, encoder_layers=1, decoder_layers=1),
            },
            steps={"target": 300, "draft": 300},
            learning_rate=5e-3,
            samples=5000,
            data="stdlib",
        ),
        "transcribe": Recipe(
            shapes=TINY_SHAPES,
            steps={"target": 600, "draft": 500},
            learning_rate=3e-3,
            samples=2000,
            data="recordings",
            heard_s=1,
        ),
        "pronounce": Recipe(
            shapes=TINY_SHAPES,
            steps={"target": 1000, "draft": 1000},
            learning_rate=5e-3,
            samples=200_000,
            data="cmudict",
        ),
    },
}
"""The recipes by size and task. small takes minutes on two cores; tiny takes half a minute a task,
with targets much deeper than drafts."""

MOST_DOCUMENT_TOKENS = 64
MOST_SUMMARY_TOKENS = 28
SUMMARY_VOCABULARY = 2048
MEL_BINS = 40
HOP_SAMPLES = 320
"""Samples from one frame to the next, 20 ms at 16 kHz. Whisper's own hop is half of that, which
would make twice as many frames to encode."""
MOST_WORDS = 32


def summary_tokenizer(texts: Sequence[str]) -> Any:
    """Train a byte-level BPE tokenizer of `SUMMARY_VOCABULARY` tokens that ends texts with </s>."""
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
    """A tokenizer of whole words, with Whisper's control tokens after them as Whisper expects."""
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


def spelling_tokenizer(texts: Sequence[str]) -> Any:
    """A tokenizer of the letters and phones in texts, which are apart by spaces, that ends texts
    with </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    signs = sorted({sign for text in texts for sign in text.split()})
    vocabulary = {sign: n for n, sign in enumerate(["<pad>", "</s>", "<unk>", *signs])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def feature_extractor(heard_s: int) -> Any:
    """Make the extractor of log-mel spectrograms of `heard_s` seconds."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(
        feature_size=MEL_BINS, hop_length=HOP_SAMPLES, chunk_length=heard_s, n_fft=400
    )


def t5(shape: Shape, vocabulary: int) -> Any:
    """A T5 of this size with random weights."""
    from transformers import T5Config, T5ForConditionalGeneration

    t5_config: Any = T5Config  # Its type hints lack what every config takes.
    width = shape.width
    config = t5_config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=32,
        d_ff=2 * width,
        num_layers=shape.encoder_layers,
        num_decoder_layers=shape.decoder_layers,
        num_heads=width // 32,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def whisper(shape: Shape, tokenizer: Any, heard_s: int) -> Any:
    """A Whisper of this size with random weights, for speech of `heard_s` seconds."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    width = shape.width
    start, no_timestamps = tokenizer.convert_tokens_to_ids(
        ["<|startoftranscript|>", "<|notimestamps|>"]
    )
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=MEL_BINS,
        d_model=width,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        encoder_attention_heads=width // 32,
        decoder_attention_heads=width // 32,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        max_source_positions=heard_s * 16000 // HOP_SAMPLES // 2,
        max_target_positions=MOST_WORDS + 32,
        bos_token_id=start,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    # A generation config that is derived from the model's config loses what only Whisper has when
    # it is loaded, so the model gets one of its own.
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
    """Write a model and what prepares its inputs where `from_pretrained` finds them.

    The file config.json, which shows that a model is there, comes last.

    Raises:
        DiskError: the files cannot be written, for example because the disk is full.
    """
    with disk.writing(folder / "model.safetensors"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for part in (model, *processors):
                _save(part, scratch)
            for path in sorted(Path(scratch).iterdir(), key=lambda p: p.name == "config.json"):
                path.replace(folder / path.name)


def _save(part: Any, folder: str) -> None:
    """Let transformers write a model or a tokenizer.

    Raises:
        OSError: the disk is full, which safetensors report as an error of their own.
    """
    try:
        part.save_pretrained(folder)
    except Exception as error:
        if "No space left" in str(error):
            raise OSError(errno.ENOSPC, str(error)) from None
        raise

"""The summarization task: its documents, and ROUGE of the summaries that a model makes."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from speculative.decoding.inputs import positions
from speculative.options import DEFAULT_DATA, Options
from speculative.tasks import docstrings, scores
from speculative.tasks.checkpoint import load_tokenizer
from speculative.tasks.scores import Score
from systems.schema import InputError


class Summaries:
    """The task's samples, numbered from 0 and prepared for a causal or T5-like model.

    Args:
        split: "test", or "train" for the samples that the calibrated method is fitted on.

    Raises:
        InputError: there is no tokenizer or no data, or prompts have no room.
    """

    def __init__(
        self, options: Options, model: Any, split: Literal["train", "test"] = "test"
    ) -> None:
        name = options.target_path
        self._tokenizer = load_tokenizer("summarize", name, "--speculative.target")
        data = options.data or DEFAULT_DATA["summarize"]
        count = options.samples if split == "test" else options.calibration_samples
        self._pairs = docstrings.read_pairs(data, split, count)
        self._prompt = options.prompt
        self._longest = options.max_document_tokens or self._tokenizer.model_max_length
        limit = positions(model)
        if not model.config.is_encoder_decoder and limit is not None:
            if limit <= options.max_new_tokens:
                raise InputError(
                    f"--speculative.max-new-tokens {options.max_new_tokens}: leaves no room for a "
                    f"prompt in the target's {limit} positions; give less"
                )
            self._longest = min(self._longest, limit - options.max_new_tokens)

    def __len__(self) -> int:
        return len(self._pairs)

    def inputs(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The model's inputs for some samples: int64 input_ids and attention_mask [B, T]."""
        texts = [self._prompt.format(document=self._pairs[i].document) for i in numbers]
        encoded = self._tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=min(self._longest, 100_000),  # A tokenizer without a limit has a huge one.
            return_tensors="pt",
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def text(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def reference(self, number: int) -> str:
        """The summary that was written for a sample."""
        return self._pairs[number].summary

    def score(self, texts: Sequence[str]) -> dict[str, Score]:
        """ROUGE-1, 2 and L of texts, one for every sample."""
        return scores.rouge(texts, [pair.summary for pair in self._pairs])

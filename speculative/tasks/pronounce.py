"""The pronouncing task: words by their letters, and the error rate of the phones that a model
gives."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from speculative.options import DEFAULT_DATA, Options
from speculative.tasks import cmudict, scores
from speculative.tasks.checkpoint import load_tokenizer
from speculative.tasks.scores import Score


class Pronunciations:
    """The task's samples, numbered from 0 and prepared for a T5-like model.

    Args:
        split: "test", or "train" for the samples that the calibrated method is fitted on.

    Raises:
        InputError: there is no tokenizer or no data.
    """

    def __init__(
        self, options: Options, model: Any, split: Literal["train", "test"] = "test"
    ) -> None:
        self._tokenizer = load_tokenizer("pronounce", options.target_path, "--speculative.target")
        count = options.samples if split == "test" else options.calibration_samples
        data = options.data or DEFAULT_DATA["pronounce"]
        self._entries = cmudict.read_entries(data, split, count)

    def __len__(self) -> int:
        return len(self._entries)

    def inputs(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The model's inputs for some samples: int64 input_ids and attention_mask [B, T]."""
        words = [self._entries[i].letters for i in numbers]
        encoded = self._tokenizer(words, padding=True, return_tensors="pt")
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def text(self, tokens: Sequence[int]) -> str:
        """The phones that some tokens are."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def reference(self, number: int) -> str:
        """The phones of a sample."""
        return self._entries[number].phones

    def score(self, texts: Sequence[str]) -> dict[str, Score]:
        """The phone error rate of texts, one for every sample: phones that are substituted, deleted
        and inserted, over the phones of the dictionary."""
        references = [entry.phones for entry in self._entries]
        return {"phone_error_rate": scores.word_error_rate(texts, references)}

"""The transcription task: its utterances, and the word error rate of a model's transcripts."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from speculative.options import DEFAULT_DATA, Options
from speculative.tasks import scores, speech
from speculative.tasks.checkpoint import load_feature_extractor, load_tokenizer
from speculative.tasks.scores import Score
from systems.schema import InputError


class Transcripts:
    """The task's samples, numbered from 0 and prepared for a Whisper-like model.

    Args:
        split: "test", or "train" for the samples that the calibrated method is fitted on.

    Raises:
        InputError: there is no tokenizer or no data, or the model wants another sampling rate.
    """

    def __init__(
        self, options: Options, model: Any, split: Literal["train", "test"] = "test"
    ) -> None:
        name = options.target_path
        self._tokenizer = load_tokenizer("transcribe", name, "--speculative.target")
        self._extractor = load_feature_extractor(name, "--speculative.target")
        if self._extractor.sampling_rate != speech.RATE_HZ:
            raise InputError(
                f"--speculative.target {name}: expects {self._extractor.sampling_rate} Hz, "
                f"speech is read at {speech.RATE_HZ} Hz"
            )
        data = options.data or DEFAULT_DATA["transcribe"]
        count = options.samples if split == "test" else options.calibration_samples
        longest_s = min(speech.LONGEST_S, self._extractor.chunk_length)
        self._utterances = speech.read_utterances(data, split, count, longest_s=longest_s)

    def __len__(self) -> int:
        return len(self._utterances)

    def inputs(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The model's inputs for some samples: float32 input_features [B, mel bins, frames]."""
        encoded = self._extractor(
            [self._utterances[i].samples for i in numbers],
            sampling_rate=speech.RATE_HZ,
            return_tensors="pt",
        )
        return {"input_features": encoded["input_features"]}

    def text(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def reference(self, number: int) -> str:
        """The words that are said in a sample."""
        return self._utterances[number].words

    def score(self, texts: Sequence[str]) -> dict[str, Score]:
        """The word error rate of texts, one for every sample."""
        references = [utterance.words for utterance in self._utterances]
        return {"word_error_rate": scores.word_error_rate(texts, references)}

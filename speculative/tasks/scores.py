"""Scores outputs: word error rate and ROUGE, with intervals by bootstrap over samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from systems.schema import InputError

RESAMPLES = 1000
"""How often the samples are drawn anew for an interval."""
COVERAGE = 0.95
"""The share of those scores that lies within the interval."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score of many outputs, as a fraction, with its bootstrap interval."""

    value: float
    low: float
    """The lower end of the 95 % interval."""
    high: float
    """The upper end of the 95 % interval."""


def word_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """The words that are substituted, deleted and inserted, over the words of the references
    (jiwer).

    Case and punctuation do not count.

    Raises:
        InputError: a reference has no words, or there are no samples.
    """
    import jiwer

    pairs = [(_words(h), _words(r)) for h, r in zip(hypotheses, references, strict=True)]
    errors, words = [], []
    for hypothesis, reference in pairs:
        if not reference:
            raise InputError("a reference has no words; leave that sample out")
        out = jiwer.process_words(reference, hypothesis)
        errors.append(out.substitutions + out.deletions + out.insertions)
        words.append(len(reference.split()))
    counts = np.array([errors, words], dtype=float)
    return bootstrap(len(pairs), lambda rows: float(np.divide(*counts[:, rows].sum(1))))


def rouge(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    """ROUGE-1, ROUGE-2 and ROUGE-L: means over samples of the F-measure with stemming
    (rouge-score)."""
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    kinds = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}
    scorer = RougeScorer(list(kinds), use_stemmer=True)
    scored = [scorer.score(r, h) for h, r in zip(hypotheses, references, strict=True)]

    def mean(kind: str) -> Score:
        values = np.array([row[kind].fmeasure for row in scored])
        return bootstrap(len(values), lambda rows: float(values[rows].mean()))

    return {name: mean(kind) for kind, name in kinds.items()}


def bootstrap(samples: int, metric: Callable[[np.ndarray], float]) -> Score:
    """The metric of all samples, and the percentile interval over samples drawn anew.

    Args:
        metric: takes numbers of samples, int64 [samples], and gives their score.

    Raises:
        InputError: there are no samples.
    """
    if samples < 1:
        raise InputError("nothing to score: no samples")
    generator = np.random.default_rng(0)
    drawn = [metric(generator.integers(samples, size=samples)) for _ in range(RESAMPLES)]
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Score(value=metric(np.arange(samples)), low=float(low), high=float(high))


def _words(text: str) -> str:
    """A text in lower case, without punctuation, with single spaces."""
    kept = "".join(c.lower() if c.isalnum() or c in "' " else " " for c in text)
    return " ".join(kept.split())

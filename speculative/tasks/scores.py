"""How good outputs are: word error rate, ROUGE, and intervals by bootstrap over samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from systems.schema import InputError

RESAMPLES = 1000
COVERAGE = 0.95


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric over a sample of outputs, as a fraction, with its bootstrap interval."""

    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""


def word_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Words substituted, deleted and inserted, over the words of the references (jiwer).

    Case and punctuation do not count.
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
    """ROUGE-1, ROUGE-2 and ROUGE-L (F-measure with stemming, mean over samples; rouge-score)."""
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
        metric: of sample numbers, int64 [samples].

    Raises:
        InputError: no samples.
    """
    if samples < 1:
        raise InputError("nothing to score: no samples")
    generator = np.random.default_rng(0)
    drawn = [metric(generator.integers(samples, size=samples)) for _ in range(RESAMPLES)]
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Score(value=metric(np.arange(samples)), low=float(low), high=float(high))


def _words(text: str) -> str:
    kept = "".join(c.lower() if c.isalnum() or c in "' " else " " for c in text)
    return " ".join(kept.split())

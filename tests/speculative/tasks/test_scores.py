import numpy as np
import pytest

from speculative.tasks.scores import bootstrap, rouge, word_error_rate
from systems.schema import InputError


def test_word_error_rate_counts_words_over_all_samples() -> None:
    pytest.importorskip("jiwer")
    score = word_error_rate(["one two", "Three, four!", ""], ["one two three", "three four", "six"])
    assert score.value == pytest.approx(2 / 6)
    assert score.low <= score.value <= score.high
    with pytest.raises(InputError, match="no words"):
        word_error_rate(["one"], ["..."])


def test_rouge() -> None:
    pytest.importorskip("rouge_score")
    scores = rouge(["the cat sat", "nothing"], ["the cat sat", "all else"])
    assert {name: score.value for name, score in scores.items()} == {
        "rouge_1": 0.5,
        "rouge_2": 0.5,
        "rouge_l": 0.5,
    }


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        values = generator.normal(3.0, 1.0, 50)
        score = bootstrap(50, lambda rows, v=values: float(v[rows].mean()))  # type: ignore[misc]
        covered += score.low <= 3.0 <= score.high
    assert 85 <= covered <= 100


def test_nothing_to_score() -> None:
    with pytest.raises(InputError, match="no samples"):
        bootstrap(0, lambda rows: 0.0)

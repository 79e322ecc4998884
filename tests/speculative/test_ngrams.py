"""The n-gram model is read as it was written, and backs off as it should."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from speculative import bench
from speculative.ngrams import BASE, LEVELS, NGrams, drafted, read
from systems.schema import InputError

WORDS = ("<s>", "</s>", "a", "b", "c")
ONE = {"<s>": (1e-9, 0.5), "</s>": (0.2, 1.0), "a": (0.4, 0.8), "b": (0.3, 0.6), "c": (0.1, 1.0)}
TWO = {
    ("<s>", "a"): (0.7, 0.9),
    ("a", "b"): (0.5, 0.4),
    ("a", "c"): (0.2, 1.0),
    ("b", "a"): (0.6, 0.3),
    ("b", "</s>"): (0.3, 1.0),
    ("c", "b"): (0.8, 0.7),
}
THREE = {
    ("<s>", "a", "b"): 0.6,
    ("a", "b", "</s>"): 0.7,
    ("a", "b", "a"): 0.2,
    ("b", "a", "c"): 0.9,
}
"""Probabilities, and the backoff weights of those that are contexts."""


def log(x: float) -> float:
    return math.log(x) / BASE


def packed(records: list[list[tuple[int, int]]]) -> bytes:
    """Records of fields (value, bits), from the lowest bit on, one more than there are."""
    number = shift = 0
    for record in records:
        for value, bits in record:
            number |= value << shift
            shift += bits
    return number.to_bytes((shift + 7) // 8, "little") + bytes(8)


def write(path: Path) -> None:
    """Write the model above in the trie format, by hand: n-grams lie under their last words."""
    at = {word: number for number, word in enumerate(WORDS)}
    bits, place_bits = len(WORDS).bit_length(), len(THREE).bit_length()
    tables = np.zeros((3, LEVELS), "<f4")
    tables[0, : len(TWO)] = [log(p) for p, _ in TWO.values()]
    tables[1, : len(TWO)] = [log(backoff) for _, backoff in TWO.values()]
    tables[2, : len(THREE)] = [log(p) for p in THREE.values()]
    pairs = sorted(TWO, key=lambda pair: (at[pair[1]], at[pair[0]]))
    triples = sorted(THREE, key=lambda t: (pairs.index((t[1], t[2])), at[t[0]]))
    unigrams = np.zeros(len(WORDS) + 1, [("p", "<f4"), ("b", "<f4"), ("next", "<u4")])
    for word, number in at.items():
        p, backoff = ONE[word]
        start = sum(at[pair[1]] < number for pair in pairs)
        unigrams[number] = log(p), log(backoff), start
    unigrams[-1] = 0, 0, len(pairs)
    twos = []
    for place, pair in enumerate([*pairs, None]):
        start = sum(pairs.index((t[1], t[2])) < place for t in triples)
        number = 0 if pair is None else list(TWO).index(pair)
        before = 0 if pair is None else at[pair[0]]
        twos.append([(before, bits), (number, 16), (number, 16), (start, place_bits)])
    threes = [[(at[t[0]], bits), (list(THREE).index(t), 16)] for t in triples] + [[(0, bits + 16)]]
    names = b"".join(word.encode() + b"\0" for word in WORDS)
    path.write_bytes(
        b"Trie Language Model\x03"
        + np.array([len(WORDS), len(TWO), len(THREE), 1], "<u4").tobytes()
        + tables.tobytes()
        + unigrams.tobytes()
        + packed(twos)
        + packed(threes)
        + np.array([len(names)], "<u4").tobytes()
        + names
    )


def backed_off(context: tuple[str, ...], word: str) -> float:
    """Katz's backing off, in its textbook form."""
    if not context:
        return ONE[word][0]
    if len(context) == 2 and (*context, word) in THREE:
        return THREE[*context, word]
    if len(context) == 1 and (*context, word) in TWO:
        return TWO[*context, word][0]
    weights: dict[tuple[str, ...], float] = {(w,): b for w, (_, b) in ONE.items()}
    weights.update({pair: b for pair, (_, b) in TWO.items()})
    return weights.get(context, 1.0) * backed_off(context[1:], word)


@pytest.fixture
def model(tmp_path: Path) -> NGrams:
    write(tmp_path / "small.lm.bin")
    return read(tmp_path / "small.lm.bin")


def test_probabilities_back_off(model: NGrams) -> None:
    assert model.words == WORDS
    for length, text in enumerate(itertools.product(range(5), repeat=2)):
        for order in (1, 2, 3):
            context = tuple(WORDS[i] for i in text)[3 - order :] if order > 1 else ()
            expected = [backed_off(context, word) for word in WORDS]
            found = np.exp(model.row([length % 5, *text], order))
            np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(np.exp(model.row([], 3)), [p for p, _ in ONE.values()], rtol=1e-4)


def test_rows_are_not_changed_by_use(model: NGrams) -> None:
    before = model.log_p.copy()
    model.row([2, 3], 3)[:] = 0
    model.row([2, 3], 2)[:] = 0
    assert np.array_equal(model.log_p, before)


def test_drafts_are_those_of_their_order_and_repeat(model: NGrams) -> None:
    target, draft, tokens = drafted(model, 3, 2, seed=1, order=1)
    assert target.shape == (3, 3, 5)
    assert draft.shape == (3, 2, 5)
    assert torch.equal(draft, torch.from_numpy(model.log_p).expand(3, 2, 5))
    assert torch.equal(drafted(model, 3, 2, seed=1, order=1)[2], tokens)
    assert (tokens > 0).all()  # <s> hardly ever follows


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.lm").write_text("\\data\\ ngram 1=2")
    with pytest.raises(InputError, match=r"text.lm: is no trigram model in the trie format"):
        read(tmp_path / "text.lm")


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    read.cache_clear()
    with pytest.raises(InputError, match=r"pip install 'systems-testbed\[ngram\]'"):
        read()


def test_the_model_of_pocketsphinx_is_read_as_pocketsphinx_reads_it() -> None:
    sphinx = pytest.importorskip("pocketsphinx", reason="pip install 'systems-testbed[ngram]'")
    model = read()
    assert len(model.words) == 72_547
    path = Path(sphinx.get_model_path()) / "en-us" / "en-us.lm.bin"
    theirs = sphinx.NGramModel.readfile(str(path))
    generator = np.random.default_rng(0)
    for pair in generator.integers(len(model.pairs.words), size=200).tolist():
        first = int(np.searchsorted(model.pairs.starts, pair, side="right") - 1)
        second = int(model.pairs.words[pair])
        row = model.row([first, second], 3)
        listed = model.triples.words[model.triples.of(pair)][:5]
        for word in [*generator.integers(len(row), size=3), *listed]:
            names = [model.words[i] for i in (int(word), second, first)]  # the last word first
            assert row[word] == pytest.approx(theirs.prob(names) * BASE, abs=2e-4)
    assert np.exp(model.row([first, second], 3).astype(float)).sum() == pytest.approx(1, abs=0.01)


def test_kernels_are_timed_on_words() -> None:
    pytest.importorskip("pocketsphinx", reason="pip install 'systems-testbed[ngram]'")
    (case,) = bench.cases([72_547], [2], [2], ["bfloat16"], "cpu", 1, "ngram")
    target, draft, tokens = bench.inputs(case, 0)
    assert target.dtype == draft.dtype == torch.bfloat16
    assert target.shape == (2, 3, 72_547)
    assert tokens.shape == (2, 2)
    (other,) = bench.cases([100], [1], [1], ["float32"], "cpu", 1, "ngram")
    with pytest.raises(InputError, match="vocabulary 100: the n-gram model has 72547"):
        bench.inputs(other, 0)

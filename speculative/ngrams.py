"""An n-gram language model of English with 72,547 words: real distributions of a large vocabulary.

The package pocketsphinx ships one, a trigram model that was trained on general English. Here a
trigram model is a target, and the bigrams or unigrams inside it are drafts of it, so that kernels,
acceptance and approximations can be measured on distributions that are not made up:

    target_logits, draft_logits, draft_tokens = drafted(read(), batch=4, gamma=4, seed=0)

Probabilities back off (Katz): that of a word after two others is the trigram's if it is listed, and
otherwise the bigram's times the backoff weight of the two, and so on down to unigrams.

The file is the "trie" of CMU Sphinx. It lists n-grams by their last word first: under every word
the words that stand before it, under these the words before them. A record is packed into bits: the
word, for bigrams the numbers of the backoff weight and of the probability in tables of 65,536
floats and the place of the first trigram below; for trigrams the word and the probability's number.
Values are logarithms to the base 1.0001.
"""

import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from systems.schema import InputError

MAGIC = b"Trie Language Model"
BASE = math.log(1.0001)
LEVELS = 2**16
"""The entries of a table of probabilities or backoff weights."""
NUMBER_BITS = 16
START, END = "<s>", "</s>"
"""The words before and after every sentence."""
WALK = 8
"""The words of a text before the draft, at the most."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Followers:
    """The words that are listed after contexts 0, 1, 2 and so on, with their probabilities."""

    starts: Ints
    """Where the words of each context start, and the end of the last, int64 [contexts + 1]."""
    words: Ints
    log_p: Floats

    def of(self, context: int) -> slice:
        """Where the words after a context stand."""
        return slice(int(self.starts[context]), int(self.starts[context + 1]))


@dataclass(frozen=True, eq=False)
class NGrams:
    """A trigram model with backoff."""

    words: tuple[str, ...]
    log_p: Floats
    """The logarithms of the words' own probabilities, [V]."""
    backoff: Floats
    """The logarithms of their backoff weights as contexts, [V]."""
    pairs: Followers
    """Words after one; context i is word i."""
    pair_backoff: Floats
    """The logarithms of the backoff weights of pairs as contexts, in their order in `pairs`."""
    triples: Followers
    """Words after two; context i is pair i."""

    def row(self, text: list[int], order: int) -> Floats:
        """The logarithms of the probabilities of all words after a text, float32 [V].

        Args:
            text: the words before, of which the last two count at the most.
            order: 3 for trigrams, 2 for bigrams, 1 for unigrams.
        """
        context = text[max(0, len(text) - order + 1) :]
        if not context:
            return self.log_p
        last = context[-1]
        found = self.log_p + self.backoff[last]
        listed = self.pairs.of(last)
        found[self.pairs.words[listed]] = self.pairs.log_p[listed]
        pair = self._pair(*context) if len(context) == 2 else None
        if pair is not None:
            found += self.pair_backoff[pair]
            listed = self.triples.of(pair)
            found[self.triples.words[listed]] = self.triples.log_p[listed]
        return found

    def _pair(self, first: int, second: int) -> int | None:
        """The number of a pair in `pairs`; None: it is not listed."""
        listed = self.pairs.of(first)
        at = listed.start + int(np.searchsorted(self.pairs.words[listed], second))
        return at if at < listed.stop and self.pairs.words[at] == second else None


def installed() -> bool:
    """Whether there is a model to read."""
    return importlib.util.find_spec("pocketsphinx") is not None


@lru_cache(1)
def read(path: Path | None = None) -> NGrams:
    """Read a model.

    Args:
        path: a file of CMU Sphinx's trie format with trigrams; None: that of pocketsphinx.

    Raises:
        InputError: pocketsphinx is not installed, or the file is of another kind.
    """
    path = path or shipped("en-us.lm.bin")
    data = np.fromfile(path, np.uint8)
    if data[: len(MAGIC)].tobytes() != MAGIC or data[len(MAGIC)] != 3:
        raise InputError(f"{path}: is no trigram model in the trie format of CMU Sphinx")
    return _Trie(data, len(MAGIC) + 1).model()


def drafted(
    model: NGrams, batch: int, gamma: int, seed: int, *, order: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Drafts of the n-grams of an order, after texts of the trigrams, and the logits of both.

    Returns:
        Target logits float32 [batch, gamma + 1, V], draft logits [batch, gamma, V] and draft
        tokens int64 [batch, gamma].
    """
    generator = torch.Generator().manual_seed(seed)
    start, end = model.words.index(START), model.words.index(END)

    def take(row: Floats) -> int:
        weights = torch.from_numpy(row).double().softmax(-1)
        return int(weights.multinomial(1, generator=generator))

    def follow(text: list[int], token: int) -> list[int]:
        return [start] if token == end else [*text, token]

    targets, drafts, tokens = [], [], []
    for number in range(batch):
        text = [start]
        for _ in range(1 + number % WALK):
            text = follow(text, take(model.row(text, 3)))
        for _ in range(gamma):
            targets.append(model.row(text, 3))
            drafts.append(model.row(text, order))
            tokens.append(take(drafts[-1]))
            text = follow(text, tokens[-1])
        targets.append(model.row(text, 3))
    shape = batch, -1, len(model.words)
    target, draft = (torch.from_numpy(np.stack(rows)).view(shape) for rows in (targets, drafts))
    return target, draft, torch.tensor(tokens).view(batch, gamma)


def shipped(name: str) -> Path:
    """A file on English that pocketsphinx ships.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pocketsphinx
    except ImportError:
        raise InputError(
            "pocketsphinx is not installed; pip install 'systems-testbed[ngram]'"
        ) from None
    return Path(pocketsphinx.get_model_path()) / "en-us" / name


class _Trie:
    """A reader of the file's bytes, which goes through its parts in their order."""

    def __init__(self, data: npt.NDArray[np.uint8], start: int) -> None:
        self._data, self._at = np.append(data, np.zeros(8, np.uint8)), start

    def model(self) -> NGrams:
        """The model, with n-grams sorted by their contexts."""
        size, pairs, triples = self._take("<u4", 3).tolist()
        self._take("<u4", 1)  # the kind of the tables: there is but one
        p2, backoff2, p3 = self._take("<f4", 3 * LEVELS).reshape(3, LEVELS) * np.float32(BASE)
        words = self._take([("log_p", "<f4"), ("backoff", "<f4"), ("next", "<u4")], size + 1)
        bits, place_bits = size.bit_length(), triples.bit_length()
        before, backoff_of, p_of, places = self._records(
            pairs, bits, NUMBER_BITS, NUMBER_BITS, place_bits
        )
        first, triple_p_of = self._records(triples, bits, NUMBER_BITS)
        pairs = int(words["next"][size])  # the file has room for a few more than it lists
        triples = int(places[pairs])
        (length,) = self._take("<u4", 1).tolist()
        names = self._take("u1", length).tobytes().decode().split("\0")[:size]

        # The words of the file are the last of their n-grams; contexts come first here.
        starts = words["next"].astype(np.int64)
        last = np.repeat(np.arange(size), starts[1:] - starts[:-1])
        order = np.argsort(before[:pairs], kind="stable")
        keys = before[order] * size + last[order]
        parents = np.repeat(np.arange(pairs), np.diff(places[: pairs + 1]))
        contexts = np.searchsorted(keys, first[:triples] * size + before[parents])
        by_context = np.lexsort((last[parents], contexts))
        return NGrams(
            words=tuple(names),
            log_p=words["log_p"][:size] * np.float32(BASE),
            backoff=words["backoff"][:size] * np.float32(BASE),
            pairs=Followers(_starts(before[order], size), last[order], p2[p_of[order]]),
            pair_backoff=backoff2[backoff_of[order]],
            triples=Followers(
                _starts(contexts[by_context], pairs),
                last[parents][by_context],
                p3[triple_p_of[:triples][by_context]],
            ),
        )

    def _take(self, kind: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
        """The next values of one kind."""
        start = self._at
        self._at += np.dtype(kind).itemsize * count
        return np.frombuffer(self._data[start : self._at].tobytes(), kind)

    def _records(self, count: int, *widths: int) -> list[Ints]:
        """The fields of the next records, which are packed into bits, and of the one after them."""
        total = sum(widths)
        fields, offset = [], 0
        for width in widths:
            bit = np.arange(count + 1, dtype=np.int64) * total + offset
            start, shift = self._at + (bit >> 3), (bit & 7).astype(np.uint64)
            found = np.zeros(count + 1, np.uint64)
            for byte in range((width + 14) // 8):
                found |= self._data[start + byte].astype(np.uint64) << np.uint64(8 * byte)
            mask = np.uint64(2**width - 1)
            fields.append(((found >> shift) & mask).astype(np.int64))
            offset += width
        self._at += ((count + 1) * total + 7) // 8 + 8
        return fields


def _starts(contexts: Ints, count: int) -> Ints:
    """Where each of `count` contexts starts in a sorted list of contexts, and its end."""
    return np.searchsorted(contexts, np.arange(count + 1)).astype(np.int64)

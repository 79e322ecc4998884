"""Reads words and their pronunciations, for the task of pronouncing words that are read.

The package pocketsphinx ships the CMU dictionary of English, 134,860 entries. An entry is a word
and its phones: `hello HH AH L OW`; further pronunciations of a word, `hello(2)`, are left out.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from speculative import ngrams
from systems.schema import InputError

TEST_SHARE = 16
"""One word in so many is for testing."""
SPELLING = re.compile(r"[a-z']+")


@dataclass(frozen=True)
class Entry:
    """A word, by its letters, and how it is said, by its phones; with spaces between them."""

    letters: str
    phones: str


def read_entries(data: str, split: str, limit: int | None = None) -> list[Entry]:
    """The entries that `--speculative.data` names, in an order that mixes them.

    Args:
        data: cmudict, which pocketsphinx ships, or dict:PATH, a file in the same format.
        split: "train" or "test". Every word belongs to one of them.
        limit: the most entries to read; None: all.

    Raises:
        InputError: there is no such source, it cannot be read, or it has no such entries.
    """
    kind, _, path = data.partition(":")
    if data == "cmudict":
        file = ngrams.shipped("cmudict-en-us.dict")
    elif kind == "dict" and path:
        file = Path(path)
    else:
        raise InputError(f"--speculative.data {data}: give cmudict or dict:PATH for pronouncing")
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--speculative.data {data}: cannot be read: {error}") from None
    entries = []
    for line in lines:
        word, _, phones = line.partition(" ")
        digest = hashlib.sha256(word.encode()).digest()
        wanted = (digest[-1] % TEST_SHARE == 0) == (split == "test")
        if wanted and phones and SPELLING.fullmatch(word):
            entries.append((digest, Entry(" ".join(word), " ".join(phones.split()))))
    if not entries:
        raise InputError(f"--speculative.data {data}: holds no {split} words")
    return [entry for _, entry in sorted(entries, key=lambda pair: pair[0])][:limit]

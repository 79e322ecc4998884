"""Words and their phones, from a dictionary of the CMU's kind."""

from pathlib import Path

import pytest

from speculative.tasks.cmudict import Entry, read_entries
from systems.schema import InputError

LINES = [f"{a}{b}'s {a.upper()}H {b.upper()} Z" for a in "abcdefgh" for b in "ijklmnop"]


def test_every_word_is_in_one_split(tmp_path: Path) -> None:
    path = tmp_path / "words.dict"
    path.write_text("\n".join([*LINES, "ai's(2) AX", "3d TH R", "silent"]))
    train, test = (read_entries(f"dict:{path}", split) for split in ("train", "test"))
    assert len(train) + len(test) == len(LINES)
    assert 0 < len(test) < len(train) / 4
    assert not {e.letters for e in train} & {e.letters for e in test}
    assert Entry("a i ' s", "AH I Z") in train + test
    assert read_entries(f"dict:{path}", "train", 7) == train[:7]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("stdlib", "--speculative.data stdlib: give cmudict or dict:PATH"),
        ("dict:nowhere.dict", "dict:nowhere.dict: cannot be read"),
        ("dict:README.md", "dict:README.md: holds no test words"),
    ],
)
def test_another_source_is_refused(
    data: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("# A file of another kind\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        read_entries(data, "test")


def test_the_dictionary_of_pocketsphinx() -> None:
    pytest.importorskip("pocketsphinx", reason="pip install 'systems-testbed[ngram]'")
    entries = read_entries("cmudict", "train") + read_entries("cmudict", "test")
    assert len(entries) > 120_000
    assert Entry("h e l l o", "HH AH L OW") in entries

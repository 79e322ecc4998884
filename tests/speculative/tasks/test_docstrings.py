from pathlib import Path

import pytest

from speculative.tasks.docstrings import functions, read_pairs
from systems.schema import InputError

SOURCE = '''
def add(left, right):
    """Return the sum of
    two numbers."""
    return left + right

def undocumented():
    return 1

def short():
    """Too short."""
    return 2

class Thing:
    @property
    async def name(self):
        """Return   its own name."""
        return self._name
'''


def test_functions_lose_their_docstrings() -> None:
    found = {pair.summary: pair.document for pair in functions(SOURCE)}
    assert found == {
        "Return the sum of": "def add(left, right):\n    return left + right",
        "Return its own name.": "async def name(self):\n    return self._name",
    }


def test_splits_share_nothing_and_are_stable() -> None:
    test = read_pairs("stdlib", "test", 40)
    assert read_pairs("stdlib", "test", 40) == test
    train = {pair.document for pair in read_pairs("stdlib", "train", 300)}
    assert len(test) == 40
    assert not train & {pair.document for pair in test}


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "news.jsonl"
    lines = [f'{{"article": "long {i}", "highlights": "short {i}", "id": {i}}}' for i in range(50)]
    path.write_text("\n".join(lines) + "\n\n")
    both = [read_pairs(f"jsonl:{path}", split) for split in ("train", "test")]
    assert len(both[0]) + len(both[1]) == 50
    assert both[0][0].document.replace("long", "short") == both[0][0].summary
    named = read_pairs(f"jsonl:{path},id,article", "train")
    assert named[0].document.isdigit()


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("{", "", "line 1: not JSON"),
        ("[1]", "", "line 1: expected an object"),
        ('{"a": 1, "b": 2}', "", "no known fields among a, b"),
        ('{"a": 1, "b": 2}', ",a,c", "no known fields among a, b"),
        ('{"a": 1, "b": 2}', ",a", "give jsonl:PATH or"),
    ],
)
def test_bad_json_lines(tmp_path: Path, text: str, fields: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        read_pairs(f"jsonl:{tmp_path / 'bad.jsonl'}{fields}", "train")


@pytest.mark.parametrize("data", ["pile", "jsonl:/nowhere.jsonl"])
def test_bad_data(data: str) -> None:
    with pytest.raises(InputError, match=r"give stdlib|cannot be read"):
        read_pairs(data, "train")

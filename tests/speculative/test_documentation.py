"""The Python that the pages on speculative sampling show is executed, block after block."""

import contextlib
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from speculative.tasks.pairs import RECIPES
from speculative.tasks.train_pair import train_pair

DOCS = Path(__file__).parents[2] / "docs"
SMALL_COMPARISON = "compare(target, draft, inputs, max_new_tokens=2, repetitions=1"


def blocks(text: str) -> list[str]:
    """The indented blocks of Python, without those that are commands."""
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", text, flags=re.M)
    code = [re.sub(r"^ {4}", "", block, flags=re.M).strip("\n") for block in found]
    return [block for block in code if block and not block.startswith((".venv/", "make "))]


def section(page: str, title: str) -> str:
    text = (DOCS / page).read_text()
    return re.split(r"^## ", text.partition(f"## {title}\n")[2], flags=re.M)[0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where `train-pair summarize` has been called, with hardly any training."""
    folder = tmp_path_factory.mktemp("reader")
    recipe = RECIPES["small"]["summarize"]
    few = dataclasses.replace(recipe, samples=40, steps={"target": 1, "draft": 1}, data="stdlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES["small"], "summarize", few)
        list(train_pair("summarize", folder / "runs" / "pairs" / "summarize"))
    return folder


@pytest.mark.parametrize(
    ("page", "title", "least"),
    [("library.md", "Speculative sampling as a library", 7), ("speculative.md", "From Python", 1)],
)
def test_the_blocks_of_a_section_run(
    page: str, title: str, least: int, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pair)
    shown = blocks(section(page, title))
    assert len(shown) >= least
    names: dict[str, Any] = {}
    for block in shown:
        block = block.replace("compare(target, draft, inputs, max_new_tokens=32", SMALL_COMPARISON)
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, page, "exec"), names)
    assert len(names["generation"].tokens) == len(names["texts"])


def test_the_example_of_filters_runs() -> None:
    names: dict[str, Any] = {}
    for block in blocks(section("speculative.md", "Filters")):
        exec(compile(block, "speculative.md", "exec"), names)
    assert names["filters"].top_p == 0.9
    for title in ("Masks of a grammar", "Log-probabilities"):
        for block in blocks(section("speculative.md", title)):
            exec(compile(block, "speculative.md", "exec"), names)
    assert names["filters"].allowed.shape == (2, 5, 32)
    assert names["scores"].isfinite().any(-1).all()


def test_the_verifier_of_the_page_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "audit.md").read_text()
    (script,) = re.findall(r"^```python\n# my_verifier.py\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "my_verifier.py").write_text(script)
    monkeypatch.syspath_prepend(str(tmp_path))
    (block,) = [b for b in blocks(page) if b.startswith("import speculative")]
    names: dict[str, Any] = {}
    exec(compile(block, "audit.md", "exec"), names)
    assert names["report"].exact
    assert "**EXACT" in capsys.readouterr().out

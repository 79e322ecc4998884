"""Reads (document, summary) pairs for summarization.

A document is a function and its summary the first line of the function's docstring. They are taken
from the standard library and the installed packages, so that there is data without a network; or
from a JSON-lines file with any two fields, such as an export of CNN/DailyMail or XSum.
"""

import ast
import hashlib
import json
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from systems.schema import InputError

LONGEST_SOURCE_BYTES = 200_000
"""Larger files are skipped: as a rule they are generated tables."""
SHORTEST_SUMMARY, LONGEST_SUMMARY = 3, 20
"""Limits of a summary, in words."""
SKIPPED_FOLDERS = {"test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "__pycache__"}
"""Modules in folders of these names are not read."""
TEST_SHARE = 16
"""One module in so many is for testing."""

# The names of the two fields of a JSON-lines file, in the order in which they are looked for.
DOCUMENT_FIELDS = ("document", "article", "text", "dialogue", "source")
SUMMARY_FIELDS = ("summary", "highlights", "target", "abstract")


@dataclass(frozen=True)
class Pair:
    """A document and its summary."""

    document: str
    summary: str


def read_pairs(data: str, split: str, limit: int | None = None) -> list[Pair]:
    """The pairs that `--speculative.data` names, no summary twice.

    Args:
        data: stdlib, installed (the standard library and installed packages), or
            jsonl:PATH[,DOCUMENT_FIELD,SUMMARY_FIELD].
        split: "train" or "test". Every module, or line of a file, belongs to one of them.
        limit: the most pairs to read; None: all. Reading all that is installed takes minutes.

    Raises:
        InputError: there is no such source, a file cannot be read or lacks the fields, or there are
            no pairs.
    """
    if data.startswith("jsonl:"):
        pairs = _numbered(_jsonl(data.removeprefix("jsonl:")), split)
    elif data in ("stdlib", "installed"):
        roots = [Path(sysconfig.get_paths()["stdlib"])]
        if data == "installed":
            roots += [Path(p) for p in sys.path if p.endswith("site-packages")]
        pairs = _modules(roots, split)
    else:
        raise InputError(
            f"--speculative.data {data}: give stdlib, installed or jsonl:PATH for summarization"
        )
    unique: dict[str, Pair] = {}
    for pair in pairs:
        unique.setdefault(pair.summary, pair)
        if len(unique) == limit:
            break
    if not unique:
        raise InputError(f"--speculative.data {data}: holds no {split} pairs")
    return list(unique.values())


def functions(source: str) -> Iterator[Pair]:
    """A pair for every documented function of a Python module: the document is its source without
    the docstring, the summary the docstring's first line.

    Raises:
        SyntaxError: the source is no Python.
    """
    with warnings.catch_warnings():  # Other people's modules have invalid escapes.
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        documentation = ast.get_docstring(node)
        if not documentation or len(node.body) < 2:
            continue
        summary = " ".join(documentation.split("\n\n")[0].split("\n")[0].split())
        if SHORTEST_SUMMARY <= len(summary.split()) <= LONGEST_SUMMARY and summary.isascii():
            node.body = node.body[1:]
            node.decorator_list = []
            yield Pair(ast.unparse(node), summary)


def _modules(roots: list[Path], split: str) -> Iterator[Pair]:
    """The pairs of the modules under some folders, in a stable order that mixes packages.

    A module's folder and name decide its split, so that the copies which packages carry of each
    other are all in one split.
    """
    modules = []
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            if not SKIPPED_FOLDERS & set(path.relative_to(root).parts[:-1]):
                digest = hashlib.sha256("/".join(path.parts[-2:]).encode()).digest()
                modules.append((digest, path))
    for digest, path in sorted(modules):
        if _in_test(digest) != (split == "test"):
            continue
        try:
            if path.stat().st_size <= LONGEST_SOURCE_BYTES:
                yield from functions(path.read_text())
        except (SyntaxError, ValueError, OSError, RecursionError):
            continue  # Templates and tests of syntax errors lie among the modules.


def _in_test(digest: bytes) -> bool:
    """Whether the item with this digest belongs to the test split."""
    return digest[-1] % TEST_SHARE == 0


def _numbered(pairs: Iterator[Pair], split: str) -> Iterator[Pair]:
    """The pairs of a split, where the number of a pair decides which one it belongs to."""
    for number, pair in enumerate(pairs):
        if _in_test(hashlib.sha256(str(number).encode()).digest()) == (split == "test"):
            yield pair


def _jsonl(argument: str) -> Iterator[Pair]:
    """The pairs of a JSON-lines file, whose fields are named after the path or have usual names.

    Raises:
        InputError: the file cannot be read, or a line is no object with both fields.
    """
    name, *fields = argument.split(",")
    path = Path(name)
    if len(fields) not in (0, 2):
        raise InputError(f"jsonl:{argument}: give jsonl:PATH or jsonl:PATH,DOCUMENT,SUMMARY")
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"jsonl:{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object with two fields")
        choices = (fields[:1], fields[1:]) if fields else (DOCUMENT_FIELDS, SUMMARY_FIELDS)
        document, summary = (next((n for n in names if n in row), None) for names in choices)
        if document is None or summary is None:
            raise InputError(
                f"{where}: no known fields among {', '.join(row)}; "
                f"give jsonl:{path},DOCUMENT_FIELD,SUMMARY_FIELD"
            )
        yield Pair(str(row[document]), str(row[summary]))

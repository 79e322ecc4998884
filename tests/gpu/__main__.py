"""`python -m tests.gpu`: run all parts that are not done, keep what they find, draw it.

python -m tests.gpu --name h200 --out results
python -m tests.gpu part verification rows.jsonl          # one part, in this process
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from systems.runs.record import read_json, write_json
from tests.gpu.parts import FULL, PARTS, Part, Row, Scale
from tests.gpu.verdict import wrong

LIMIT_S = 480.0
"""That all parts together may take."""
NEEDED = ("numpy", "scipy", "sklearn", "PIL", "matplotlib", "tomli_w", "pytest", "triton")
"""What parts import beside torch, where nothing is installed for them."""
SHORTEST_S = 5.0
"""A part is not begun if there is less time left."""
TRACE = 4000
"""The last characters of a traceback that are kept."""
WIDTH = 60
"""The most characters of a value in a line of progress."""
LINES = 20
"""The last lines of what a part that failed has printed."""


def main(words: Sequence[str], scale: Scale = FULL, module: str = "tests.gpu") -> int:
    """Run one part, or all of them; returns the exit code.

    Args:
        module: what Python runs for a part, with `part NAME FILE`.
    """
    if words[:1] == ["part"]:
        name, path = words[1:]
        run_part(next(part for part in PARTS if part.name == name), Path(path), scale)
        return 0
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--name", default="gpu", help="of the machine, in the names of the files")
    parser.add_argument("--out", type=Path, default=Path("results"), help="where they go")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="for all parts together")
    parser.add_argument("--parts", nargs="*", default=[part.name for part in PARTS])
    flags = parser.parse_args(words)
    unknown = set(flags.parts) - {part.name for part in PARTS}
    if unknown:
        parser.error(f"--parts {' '.join(sorted(unknown))}: give some of {_names()}")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed, so some parts will fail: {', '.join(missing)}", flush=True)
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"gpu-{flags.name}.json"
    wanted = [part for part in PARTS if part.name in flags.parts]
    found = run_all(wanted, path, flags.limit_s, scale, module)
    return summarize(found, path)


def _names() -> str:
    return ", ".join(part.name for part in PARTS)


def run_part(part: Part, path: Path, scale: Scale) -> None:
    """Run a part in this process; each row is in the file as soon as it is found."""
    with path.open("w") as file:

        def keep(row: Row) -> None:
            print("  " + ", ".join(f"{k} {_short(v)}" for k, v in row.items()), flush=True)
            file.write(json.dumps(row, default=str) + "\n")
            file.flush()

        try:
            for row in part.rows(scale):
                keep(row)
        except Exception as error:  # what libraries print after it may be longer than what is kept
            keep({"failed": repr(error), "trace": traceback.format_exc()[-TRACE:]})
            raise


def _short(value: Any) -> str:
    """A value of a row, for a line of progress: of times the median, of a program's lines the last,
    of a command its end."""
    if isinstance(value, dict) and "median" in value:
        value = value["median"]
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        value = value[-1]
    if isinstance(value, float):
        return f"{value:.4g}"
    return value[-WIDTH:] if isinstance(value, str) else str(value)[:WIDTH]


def run_all(
    parts: Sequence[Part], path: Path, limit_s: float, scale: Scale, module: str
) -> dict[str, Any]:
    """Run the parts that the file has not as done, each in a process of its own, and write what
    they find into the file after each of them."""
    began = time.monotonic()
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    sizes = json.loads(json.dumps(dataclasses.asdict(scale)))
    if found.get("scale") != sizes:
        found = {"scale": sizes, "parts": {}}
    for part in parts:
        if found["parts"].get(part.name, {}).get("end") == "done":
            print(f"{part.name}: done before")
            continue
        left_s = scale.patience * limit_s - (time.monotonic() - began)
        if left_s < SHORTEST_S:
            print(f"{part.name}: no time left; call this again")
            continue
        most_s = min(scale.patience * part.limit_s, left_s)
        print(f"{part.name}: {part.what}, at most {most_s:.0f} s", flush=True)
        found["parts"][part.name] = in_process(part, most_s, module)
        write_json(path, found)
        print(f"{part.name}: {found['parts'][part.name]['end']}", flush=True)
    return found


def in_process(part: Part, limit_s: float, module: str) -> dict[str, Any]:
    """What a part finds in a process of its own, how it ends, and how long it takes."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.jsonl")
        command = [sys.executable, "-m", module, "part", part.name, str(rows)]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, errors = process.communicate(timeout=limit_s)
            end = "done" if process.returncode == 0 else f"failed with code {process.returncode}"
        except subprocess.TimeoutExpired:
            end = f"cut short after {limit_s:.0f} s"
            errors = _ended(process)
        except KeyboardInterrupt:  # the part has a session of its own, and would go on
            _ended(process)
            raise
        lines = rows.read_text().splitlines() if rows.is_file() else []
    kept: list[Row] = [json.loads(line) for line in lines if line.endswith("}")]
    said = errors.splitlines()[-LINES:] if end != "done" else []
    for line in said:
        print("  " + line, file=sys.stderr)
    return {"end": end, "took_s": time.monotonic() - began, "errors": said, "rows": kept}


def _ended(process: "subprocess.Popen[str]") -> str:
    """End a process and those that it has started; returns what it had said."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[1]


def summarize(found: dict[str, Any], path: Path) -> int:
    """Print what is wrong and where everything lies; returns the exit code, 1 if anything is."""
    try:
        from tests.gpu.figures import draw_all

        for figure in draw_all(found, path):
            print(f"figure: {figure}")
    except ImportError as error:
        print(f"no figures: {error}")
    complaints = wrong(found)
    for complaint in complaints:
        print(f"wrong: {complaint}")
    for name, part in found["parts"].items():
        if part["end"] != "done":
            print(f"{name}: {part['end']}; call this again to repeat it")
    took_s = sum(part["took_s"] for part in found["parts"].values())
    print(f"{len(complaints)} findings; {took_s:.0f} s in all; everything is in {path}")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""docs/own-model.md holds: in an empty folder outside the checkout, its files and its commands do
what it says.

Ranks really start for Stanza, and for the record that runs again; what else starts ranks is
prepared, and tests of training start those.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.records import read_result
from systems.network.namespaces import unavailable

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "own-model.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.M | re.S)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
SMALL = "--stanza.steps 12 --world-size 2"
IN_RANKS = ("testbed run job.toml --out", "testbed run --again")
PATIENCE_S = 180


def in_processes(command: str, folder: Path) -> None:
    """Run a command that must succeed, in processes of its own, with fewer steps and ranks."""
    run = command.replace("testbed ", f"{sys.executable} -m launch ")
    done = subprocess.run(
        shlex.split(f"{run} {SMALL}"),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def in_this_process(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do all of a command but start its ranks."""
    for name in ("run.run_ranks", "emulate.run_emulated"):
        monkeypatch.setattr(f"launch.commands.{name}", lambda *_, **__: 0)
    words = shlex.split(command)
    assert words[0] == "testbed"
    if words[1] == "throughput":  # a run for every point: its flags are read, its tests run them
        with pytest.raises(SystemExit) as stop:
            main([*words[1:], "--help"])
        assert not stop.value.code
    elif words[1] != "emulate" or unavailable() is None:
        main(words[1:])


@pytest.mark.distributed
def test_the_page_works_in_an_empty_folder(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, text in BLOCKS:
        if kind != "sh":
            (own_folder / text.split()[1]).write_text(text)
    assert sorted(path.name for path in own_folder.iterdir()) == [
        "data.py",
        "job.toml",
        "my.toml",
        "net.py",
    ]
    for command in COMMANDS:
        if command.startswith(IN_RANKS):
            in_processes(command, own_folder)
        else:
            in_this_process(command, monkeypatch)
    shown = capsys.readouterr().out
    assert "x ps-blocking   x DDP" in shown
    assert "profile: net.py:Net, batch 16, cpu" in shown
    first, again = (read_result(Path("runs") / name) for name in ("stanza", "stanza-again"))
    assert first["loss"] == pytest.approx(again["loss"], rel=1e-4)
    assert first["loss"][-1] < 0.8 * first["loss"][0]
    assert first["test_accuracy"] > 0.9
    said = json.loads((own_folder / "runs" / "stanza" / "run.json").read_text())
    assert said["again"].endswith("run --again runs/stanza --trust")


def test_nothing_else_is_shown() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "toml", "sh"}
    assert len(COMMANDS) == 9

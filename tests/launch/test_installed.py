"""Systems are found by their entry points; `launch` names none of them."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from launch import installed, trust
from launch.__main__ import main
from launch.ownership import BUILT_IN
from systems.runs.record import read_json
from systems.schema import InputError

LAUNCH = Path(__file__).parents[2] / "launch"
RING = '''
"""A system of another package."""
from dataclasses import dataclass
from systems.finding import Finding
from systems.system import Command, Opened, System


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the ring turns."""

    turns: int = 3
    """How often it turns."""
    law: str = ""
    """Code that says how, by its import path."""


def checks():
    return [Finding(name="ring finger", works=True, found="one", needed_for="rings")]


def turn(arguments):
    print("turned", *arguments)


SYSTEM = System(
    name="ring",
    options=Options,
    open=lambda job, plan, emulation: Opened(
        scheme="ring",
        roles="1 worker",
        data="none",
        work=lambda world: {"turns": job.options.turns, "samples_per_s": 1.0},
    ),
    check=lambda job, plan: None,
    line=lambda result: f"{result['turns']} turns",
    batch_size_option="ring.turns",
    batch_size=lambda job: job.options.turns,
    with_batch_size=lambda job, samples: job.with_options(turns=samples),
    code_named=lambda options: [options.law] if options.law else [],
    commands={"plan ring": Command(main="ring_of_a_stranger:turn", what="turn it")},
    doctor="ring_of_a_stranger:checks",
)
'''


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """A folder with an installed package that offers the system `ring`."""
    folder = tmp_path / "installed"
    metadata = folder / "ring_of_a_stranger-1.dist-info"
    metadata.mkdir(parents=True)
    (folder / "ring_of_a_stranger.py").write_text(RING)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: ring-of-a-stranger\nVersion: 1\n"
    )
    (metadata / "entry_points.txt").write_text(
        f"[{installed.GROUP}]\nring = ring_of_a_stranger:SYSTEM\n"
    )
    return folder


def launch(ring: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line where the package is installed."""
    path = os.pathsep.join([str(ring), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "launch", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.distributed
def test_a_system_of_another_package_runs_as_the_built_in_ones_do(
    ring: Path, tmp_path: Path
) -> None:
    job, out, again = tmp_path / "job.toml", tmp_path / "one", tmp_path / "two"
    job.write_text('system = "ring"\n[ring]\nturns = 5\n[stanza]\nsteps = 1\n')
    flags = ["--world-size", "1", "--launcher", "local", "--ring.law", "theirs:law"]
    done = launch(ring, "run", str(job), *flags, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "ring | tier measured | ring | world size 1" in done.stdout
    assert "  5 turns" in done.stdout
    assert read_json(out / "result.json")["turns"] == 5
    assert "stanza" not in (out / "job.toml").read_text()

    refused = launch(ring, "run", "--again", str(out), "--out", str(again))
    assert refused.returncode == 2
    assert refused.stderr == (
        f"error: --again {out}: runs the code of theirs:law; if you trust it, add --trust\n"
    )
    done = launch(ring, "run", "--again", str(out), "--trust", "--out", str(again))
    assert done.returncode == 0, done.stderr
    assert read_json(again / "result.json")["turns"] == 5


def test_its_flags_its_commands_and_its_checks_are_there(ring: Path, tmp_path: Path) -> None:
    shown = launch(ring, "run", "--system", "ring", "--help").stdout
    assert "--ring.turns" in shown
    assert "How often it turns." in shown
    assert "--stanza." not in shown
    assert "plan ring [flags]            turn it" in launch(ring, "--help").stdout
    assert launch(ring, "plan", "ring", "twice").stdout == "turned twice\n"
    found = launch(ring, "doctor").stdout
    assert "ok   system ring: ring_of_a_stranger:SYSTEM" in found
    assert "ok   ring finger: one" in found
    refused = launch(ring, "simulate", "--system", "ring", "--out", str(tmp_path / "r"))
    assert refused.stderr == (
        "error: --system ring: has no `testbed simulate`; `testbed run` runs it here\n"
    )
    refused = launch(ring, "run", "--ring.turns", "7")
    assert "--ring.turns: is an option of ring, and the job runs stanza" in refused.stderr


@pytest.fixture
def offering(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """The entry points that installed packages have, to which a test adds."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(installed, "_entry_points", lambda: points)
    installed.offered.cache_clear()
    installed.system.cache_clear()
    yield points
    monkeypatch.undo()
    installed.offered.cache_clear()
    installed.system.cache_clear()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ring", "no_such_ring:SYSTEM", "no_such_ring:SYSTEM: no module no_such_ring"),
        ("ring", "json:dumps", "json:dumps is a function; it must be a systems.system.System"),
        (
            "ring",
            "stanza.system:SYSTEM",
            "is a system named stanza; the two names must be the same",
        ),
        ("stanza", "json:dumps", "several installed packages offer a system of this name"),
    ],
)
def test_a_plug_in_that_is_none_is_one_line(
    name: str, value: str, said: str, offering: list[EntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    offering.append(EntryPoint(name, value, installed.GROUP))
    with pytest.raises(InputError) as error:
        installed.system(name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert name not in [system.name for system in installed.all_systems()]
    assert f"warning: --system {name}: " in capsys.readouterr().err


def test_the_built_in_systems_are_offered_once(offering: list[EntryPoint]) -> None:
    offering.extend(EntryPoint(name, value, installed.GROUP) for name, value in BUILT_IN.items())
    assert [system.name for system in installed.all_systems()] == list(BUILT_IN)


def test_an_unknown_system_is_told_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--system", "rnig"])
    line = capsys.readouterr().err
    assert "--system 'rnig'" in line
    assert "installed: stanza, sparsepipe, speculative" in line


@pytest.mark.parametrize(("answer", "runs"), [("y\n", True), ("\n", False), ("no\n", False)])
def test_who_sits_at_a_terminal_is_asked(
    answer: str, runs: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return answer

    monkeypatch.setattr(sys, "stdin", Terminal())
    if runs:
        trust.allow(["net:Net"], "--again runs/one")
    else:
        with pytest.raises(InputError, match="net:Net; if you trust it, add --trust"):
            trust.allow(["net:Net"], "--again runs/one")
    assert capsys.readouterr().out.startswith("--again runs/one: runs the code of net:Net. Run it?")


def test_launch_names_no_system() -> None:
    """Neither in an import, nor in a string that is no docstring, but for the default list."""
    named = re.compile("|".join(BUILT_IN))
    found = []
    for path in sorted(LAUNCH.rglob("*.py")):
        tree = ast.parse(path.read_text())
        strings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.expr | ast.stmt):
                continue
            text = ""
            if isinstance(node, ast.Constant) and id(node) not in strings:
                text = str(node.value)
            elif isinstance(node, ast.ImportFrom):
                text = node.module or ""
            elif isinstance(node, ast.Import):
                text = " ".join(name.name for name in node.names)
            if named.search(text) and path.name != "ownership.py":
                found.append(f"{path.name}:{node.lineno}: {text}")
    assert found == []


@pytest.mark.parametrize(
    ("decorator", "field", "said"),
    [
        ("@dataclass(frozen=True, kw_only=True)", "steps: int", "has no default for steps"),
        ("@dataclass", "steps: int = 1", "is no frozen dataclass"),
        ("", "steps: int = 1", "is no frozen dataclass"),
    ],
)
def test_options_that_no_job_can_hold_are_one_line(
    decorator: str,
    field: str,
    said: str,
    offering: list[EntryPoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = RING.replace("@dataclass(frozen=True, kw_only=True)\nclass Options:", "class Options:")
    assert text != RING
    text = text.replace("class Options:", f"{decorator}\nclass Options:\n    {field}\n", 1)
    (tmp_path / "ring_with_faults.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ring_with_faults", raising=False)
    offering.append(EntryPoint("ring", "ring_with_faults:SYSTEM", installed.GROUP))
    with pytest.raises(
        InputError, match="--system ring: the class Options of its options"
    ) as error:
        installed.system("ring")
    assert said in str(error.value)

"""Every command that README and the docs show is executed, as small as it can be, and every message
that the docs explain exists.

A command runs in this process, in a folder that looks like a checkout; `torchrun` in its own. SMALL
says what is added to make one small; what has no entry there runs as it stands. Where it says
`planned`, all is done but starting the ranks: the tests of `launch` start them.
"""

import contextlib
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from launch.__main__ import main
from stanza.planner.plan import load_profile
from stanza.system.measuring import device_here
from systems.network.namespaces import unavailable
from systems.profiles.profile import save

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LAUNCH = (".venv/bin/testbed ", ".venv/bin/python -m launch ")
"""How the pages call the command line, whose script is the same as the module."""
PACKAGES = ("launch", "stanza", "sparsepipe", "speculative", "systems")
RECORD = "runs/20260101-120000-stanza-digits"
NOTHING_TO_MEASURE = "--cluster my.toml --profile digits.json"
TWO_SMALL_STEPS = "--stanza.steps 2 --stanza.global-batch-size 8"
SCRIPT = re.MULTILINE | re.DOTALL
PAIR_OF_ONE_STEP = "--target-steps 1 --draft-steps 1"
SMALL_CLOUD = "--clouds sphere:8 --channels 1 --networks --repetitions 1"
FEW_SAMPLES = "--speculative.samples 2 --speculative.max-new-tokens 2"


@dataclass(frozen=True)
class Small:
    """How the commands that begin alike are made small."""

    add: str = ""
    """More flags; the last of a kind wins."""
    planned: bool = False
    """Nothing but the ranks is left out."""
    slow: bool = False
    """It takes long, and quicker tests do nearly the same."""


SMALL = {
    # In this order: later ones read what earlier ones write.
    "testbed run launch/jobs/stanza-digits.toml --stanza.fc-workers 1": Small(
        f"{NOTHING_TO_MEASURE} --out {RECORD}", planned=True
    ),
    "testbed run launch/jobs/stanza-digits.toml --shape": Small(
        "--help"
    ),  # it measures links first
    "testbed run launch/jobs/stanza-digits.toml": Small(NOTHING_TO_MEASURE, planned=True),
    "testbed profile stanza": Small("--batch-size 1"),
    "testbed train-pair summarize": Small(f"{PAIR_OF_ONE_STEP} --data stdlib"),
    "testbed train-pair transcribe": Small(PAIR_OF_ONE_STEP),
    "testbed train-pair pronounce": Small(PAIR_OF_ONE_STEP),
    "testbed run launch/jobs/summarize.toml": Small(
        f"{FEW_SAMPLES} --speculative.data stdlib", True
    ),
    "testbed run launch/jobs/transcribe.toml --speculative.data folder:DIR": Small("--help"),
    "testbed run launch/jobs/transcribe.toml": Small(FEW_SAMPLES, planned=True),
    "testbed run launch/jobs/pronounce.toml": Small(FEW_SAMPLES, planned=True),
    "testbed run launch/jobs/": Small(planned=True),
    "testbed run --again": Small(planned=True),
    "testbed emulate": Small(planned=True),
    "testbed profile sparsepipe": Small("--batch-size 1 --repetitions 1"),
    "testbed bench sparse --clouds": Small(f"{SMALL_CLOUD} --out bench-of-two-clouds"),
    "testbed bench sparse": Small(SMALL_CLOUD),
    "testbed audit": Small("--total-variation 0.3 --vocabularies 100 --no-control"),
    "testbed bench speculative --logits ngram": Small(
        "--gammas 1 --repetitions 1 --out bench-of-n-grams.json"
    ),
    "testbed bench speculative": Small("--vocabularies 100 --gammas 1 --repetitions 1"),
    "testbed reproduce stanza --experiment planner": Small(),
    "testbed reproduce": Small("--help"),  # minutes: its flags are read, its tests run the rest
    "testbed throughput launch/jobs/stanza-digits.toml --world-sizes 8 16 --elsewhere": Small(),
    "testbed throughput": Small("--help"),  # a run for every point: likewise
    "testbed sweep launch/jobs/stanza-digits.toml": Small("--help"),
    "testbed sweep": Small(),
    "testbed simulate": Small(),
    "torchrun --nproc-per-node 4 train_cnn.py ddp": Small(TWO_SMALL_STEPS, slow=True),
    "torchrun": Small(TWO_SMALL_STEPS),
    "launch.launchers.torchrun": Small(TWO_SMALL_STEPS),
}
NOT_RUN = (
    "python3 -m venv",  # how .venv is made
    ".venv/bin/python -m pip",
    ".venv/bin/ruff",  # what `make test` runs
    ".venv/bin/testbed run --again RECORD",  # needs checkpoints: its tests make some
)


def shown_commands(page: Path) -> list[str]:
    """Commands in the code blocks of a page, indented ones and fenced ones, without comments."""
    text = re.sub(r" *\\\n *", " ", page.read_text())  # a command over several lines
    lines = re.sub(r"^```.*?\n(.*?)^```", _indented, text, flags=re.M | re.S)
    shown = re.findall(r"^ {4}((?:make|python3|\.venv/bin/\S+) .*)$", lines, flags=re.M)
    return [line.partition(" #")[0].strip() for line in shown]


def _indented(block: re.Match[str]) -> str:
    return "".join(f"    {line}\n" for line in block[1].splitlines())


def _order(command: str) -> tuple[int, str]:
    prefix = _prefix(command)
    return len(SMALL) if prefix is None else list(SMALL).index(prefix), command


def _prefix(command: str) -> str | None:
    """The first entry of SMALL that a command begins with."""
    words = _words(command)
    if words is None:
        bare = command.removeprefix(".venv/bin/").removeprefix("python -m ")
    else:
        bare = f"testbed {words}"
    return next((prefix for prefix in SMALL if bare.startswith(prefix)), None)


def _small(command: str) -> Small:
    """How a command is made small."""
    return SMALL.get(_prefix(command) or "", Small())


def _words(command: str) -> str | None:
    """What a command gives to this testbed's command line; None for another program."""
    called = next((start for start in LAUNCH if command.startswith(start)), None)
    return None if called is None else command.removeprefix(called)


SHOWN = sorted({command for page in PAGES for command in shown_commands(page)}, key=_order)
TO_RUN = [command for command in SHOWN if not command.startswith(("make ", *NOT_RUN))]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages, and what a reader has written before."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in PACKAGES:
        (folder / name).symlink_to(ROOT / name)
    copied = (ROOT / "systems/clusters/ec2-p3-10g.toml").read_text()
    (folder / "my.toml").write_text(copied.replace('"V100"', f'"{device_here()}"'))
    main(["profile", "stanza", "--out", str(folder / "digits.json")])
    save(replace(load_profile("vgg16"), device="T4"), folder / "t4.json")
    for page in PAGES:
        for name, script in re.findall(
            r"^```(?:python|toml)\n# (\w+\.py|(?:lab|racks)\.toml)\n(.*?)^```",
            page.read_text(),
            SCRIPT,
        ):
            (folder / name).write_text(script)
    with contextlib.chdir(folder):
        runpy.run_path("traced.py")  # writes the trace that a command reads
    return folder


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.slow] if _small(command).slow else [])
        for command in TO_RUN
    ],
)
def test_a_command_works(command: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = _missing(command)
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.chdir(checkout)
    small = _small(command)
    words = shlex.split(f"{_words(command) or command} {small.add}")
    if "torchrun" in command.partition("--nproc-per-node")[0]:
        words[words.index("--nproc-per-node") + 1] = "2"
        flags = words[words.index("--nproc-per-node") :]
        module = (
            "launch.launchers.torchrun"
            if "launch.launchers.torchrun" in words
            else "torch.distributed.run"
        )
        torchrun = [sys.executable, "-m", module, "--standalone", *flags]
        subprocess.run(torchrun, check=True, timeout=300)
        return
    assert _words(command) is not None, "an unknown kind of command: say in this file how to run it"
    if small.planned:
        for name in ("launch.commands.run.run_ranks", "launch.commands.emulate.run_emulated"):
            monkeypatch.setattr(name, lambda *_, **__: 0)
    assert _exit_code(words) == 0


def _missing(command: str) -> str | None:
    """What this machine lacks to run a command; None: nothing."""
    if "testbed emulate" in command:
        return unavailable()
    if "--device cuda" in command and not torch.cuda.is_available():
        return "no GPU"
    of_words = "ngram" in command or "pronounce" in command
    if of_words and importlib.util.find_spec("pocketsphinx") is None:
        return "no n-grams: pip install 'systems-testbed[ngram]'"
    if "transcribe" in command and "TESTBED_DATA" not in os.environ:
        return "no recordings: TESTBED_DATA is not set"
    if "testbed validate" in command and "TESTBED_DATA" not in os.environ:
        return "no measured jobs: TESTBED_DATA is not set"
    return None


def _exit_code(words: list[str]) -> int | str | None:
    try:
        main(words)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.mark.parametrize("command", [c for c in SHOWN if c.startswith("make ")])
def test_a_make_target_exists(command: str) -> None:
    subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, check=True, capture_output=True)


def test_a_command_that_fails_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["run", "launch/jobs/none.toml"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_the_script_is_the_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"testbed": "launch.__main__:program"}


def test_commands_are_found() -> None:
    assert ".venv/bin/testbed doctor" in SHOWN
    assert len(TO_RUN) > 30


def test_fenced_and_indented_commands_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n```sh\nmake one\n```\n\n    make two   # why\n\n    x = 1\nmake sense\n"
        "    make \\\n        three\n"
    )
    assert shown_commands(page) == ["make one", "make two", "make three"]


def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="no mkdocs; pip install 'systems-testbed[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pages = "".join(page.read_text() for page in tmp_path.rglob("*.html"))
    assert "results/scale-speedup.png" in pages
    assert not re.findall(r'(?:src|<link[^>]+stylesheet[^>]+href)="?https?://', pages)


def test_messages_that_are_explained_exist() -> None:
    """`…` in a message stands for what varies; the rest is somewhere in the code, literally."""
    code = "\n".join(p.read_text() for name in PACKAGES for p in (ROOT / name).rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # a literal over several lines
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^> (.+)$", page, flags=re.M)
    assert len(quoted) > 15
    parts = [part.strip() for message in quoted for part in message.split("…")]
    assert [part for part in parts if part not in code] == []

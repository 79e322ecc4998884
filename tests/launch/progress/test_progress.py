"""A live table on a terminal, plain lines elsewhere, neither with --quiet; TensorBoard's files."""

import importlib.util
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from launch.__main__ import main
from systems.progress import table, tensorboard
from systems.progress.view import View
from systems.runs.record import Step

DIGITS = "launch/jobs/stanza-digits.toml"
SHORT = [
    "--launcher",
    "local",
    "--world-size",
    "1",
    "--stanza.scheme",
    "single",
    "--stanza.steps",
    "30",
]
LAUNCH = [sys.executable, "-m", "launch", "run", DIGITS, *SHORT]
PATIENCE_S = 90

pytestmark = pytest.mark.distributed


def on_a_terminal(command: list[str]) -> tuple[int, str]:
    """Exit code of a command on a terminal of its own, and all that it has drawn there."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=variables)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the last one has closed it
            break
        if not part:
            break
        drawn += part
    os.close(ours)
    return process.wait(timeout=PATIENCE_S), drawn.decode(errors="replace")


def test_a_terminal_gets_a_table_and_what_ranks_print_above_it(tmp_path: Path) -> None:
    code, drawn = on_a_terminal([*LAUNCH, "--out", str(tmp_path / "record")])
    assert code == 0, drawn
    for words in ("starting", "no step yet", "step 30 of 30", "samples/s", "00:00:00 left"):
        assert words in drawn
    assert "tier measured | single | world size 1" in drawn  # printed by rank 0
    assert f"record: {tmp_path}/record" in drawn
    assert "step 6/30" not in drawn  # rank 0 keeps its lines to itself


def test_errors_of_ranks_come_through_a_table(tmp_path: Path) -> None:
    flags = ["--stanza.model", "vgg16", "--out", str(tmp_path / "record")]
    code, drawn = on_a_terminal([*LAUNCH, *flags])
    assert code == 2
    assert "error: " in drawn


def test_tensorboard_gets_every_ranks_steps(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = tensorboard.Sink(tmp_path, ["conv", "fc"])
    for index in range(3):
        new = [(0, Step(index, {"step_s": 0.1})), (1, Step(index, {"loss_sum": 3.0 - index}))]
        sink.write(new, View(title="digits", rows=[], step=index, loss=0.5))
    sink.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    names = {"loss", "step_s/rank 0 (conv)", "loss_sum/rank 1 (fc)"}
    assert set(events.Tags()["scalars"]) == names
    assert [e.value for e in events.Scalars("loss_sum/rank 1 (fc)")] == [3.0, 2.0, 1.0]


def test_quiet_leaves_the_result(tmp_path: Path) -> None:
    command = [*LAUNCH, "--quiet", "--out", str(tmp_path / "record")]
    code, drawn = on_a_terminal(command)
    assert code == 0
    assert "step 6/30" not in drawn
    assert "starting" not in drawn
    assert "samples/s, step" in drawn


def test_a_missing_tensorboard_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else spec(name)
    )
    with pytest.raises(SystemExit) as stop:
        main(["run", DIGITS, "--tensorboard"])
    assert stop.value.code == 2
    assert "pip install 'systems-testbed[tensorboard]'" in capsys.readouterr().err


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    assert not table.is_live()

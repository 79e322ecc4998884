"""`testbed profile --from-trace`: the file that a planner reads, and what is printed."""

from pathlib import Path

import pytest

from launch.__main__ import main
from systems.profiles import profile
from tests.systems.profiles import traces
from tests.systems.profiles.traces import step

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(96, classes)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))
"""


def run(trace: Path, out: Path, *flags: str) -> profile.ModelProfile:
    main(["profile", "--from-trace", str(trace), "--out", str(out), *flags])
    return profile.load(out)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return traces.write(tmp_path / "net.json.gz", [*step(1, 9), *step(2), *step(3, 3)])


def test_a_trace_becomes_a_profile(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = run(trace, tmp_path / "profile.json")
    assert (read.name, read.device, read.batch_size, read.threads) == ("net", "cpu", 8, None)
    assert read.forward_s == pytest.approx(360e-6)
    said = capsys.readouterr().out
    assert "Linear_0       0.120        0.124        0.000          0.004" in said
    assert "a step: median 2.000 ms, quartiles 1.500 and 2.500, n=2; layers: 0.694 ms, 35%" in said
    assert "     0.080 ms    4%  the optimizer" in said
    assert "note: ProfilerStep#1 is left out: the first step warms up" in said
    assert "tier measured | net, batch 8 on cpu: forward 0.36 ms, backward 0.33 ms" in said


def test_a_model_gives_its_names(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("traced_net.py").write_text(NET)
    flags = ["--model", "traced_net.py:Net", "--model-options", "classes=10", "--device", "V100"]
    read = run(trace, tmp_path / "profile.json", *flags)
    assert [layer.name for layer in read.layers] == ["body.0", "body.1", "head"]
    assert [layer.parameter_bytes for layer in read.layers] == [672, 0, 3880]
    assert (read.name, read.device) == ("traced_net.py:Net", "V100")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "net"], ["--model net", "module:attribute"]),
        (["--model", "nowhere.py:Net"], ["--model nowhere.py:Net", "no file"]),
        (["--model", "torch.nn:Linear"], ["torch.nn:Linear", "--model-options in_features=..."]),
        (["--model", "torch.nn:ReLU"], ["--model", "Conv2d_0", "ReLU"]),
        (["--model", "builtins:dict"], ["builtins:dict", "makes a dict", "nn.Module"]),
        (["--batch-size", "0"], ["--batch-size 0"]),
        (["--layers", "ranges"], ["neither calls of modules nor ranges"]),
    ],
)
def test_bad_flags_are_refused_in_one_line(
    flags: list[str],
    words: list[str],
    trace: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "profile.json"
    with pytest.raises(SystemExit) as stop:
        main(["profile", "--from-trace", str(trace), "--out", str(out), *flags])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words), line
    assert not out.exists()

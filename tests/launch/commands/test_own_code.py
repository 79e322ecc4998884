"""Commands with a user's own network and data: what is stored, planned, trusted and refused."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.commands.run import prepare_run
from launch.job import load_job
from stanza.options import Options
from stanza.planner.plan import load_profile
from stanza.system import SYSTEM
from stanza.system.planning import planning_basis
from systems.clusters import cluster as clusters
from systems.profiles import profile
from systems.schema import InputError
from tests import own_code

JOB = """
system = "stanza"
world_size = 2
[stanza]
model = "net.py:Net"
data = "data.py:make"
loss = "net.py:smooth"
fc_workers = 1
steps = 2
"""


@pytest.fixture
def job(own_folder: Path) -> Path:
    """A job file in another folder than the working directory, beside its network and data."""
    folder, elsewhere = own_folder / "mine", own_folder / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    own_code.write(folder)
    (folder / "job.toml").write_text(JOB)
    os.chdir(elsewhere)
    return folder / "job.toml"


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()
    beside = ("measuring ", "warning: the times ")  # of a busy machine
    (line,) = [line for line in said if not line.startswith(beside)]
    return line


def test_files_beside_a_job_file_are_found_and_stored_with_their_folder(job: Path) -> None:
    loaded = load_job(job).options
    assert loaded.model == f"{job.parent}/net.py:Net"
    assert loaded.data == f"{job.parent}/data.py:make"
    assert loaded.loss == f"{job.parent}/net.py:smooth"
    record = prepare_run(load_job(job))
    assert load_job(record / "job.toml").options == replace(loaded, micro_batches=1)


def test_a_record_that_names_code_is_run_again_only_by_who_trusts_it(
    job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.commands.run.run_ranks", lambda *_, **__: 0)
    record = str(prepare_run(load_job(job)))
    line = refused(["run", "--again", record], capsys)
    assert f"--again {record}: runs the code of " in line
    assert f"{job.parent}/data.py:make" in line
    assert line.endswith("add --trust")
    capsys.readouterr()
    main(["run", "--again", record, "--trust"])
    assert "warning" not in capsys.readouterr().err
    data = job.parent / "data.py"
    data.write_text(data.read_text() + "\n# changed\n")
    main(["run", "--again", record, "--trust"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"warning: --again {record}: {data} has changed since; the new code runs"
    built_in = ["--stanza.model", "digits-cnn", "--stanza.data", "digits"]
    main(["run", "--again", record, *built_in, "--stanza.loss", "cross-entropy"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--stanza.model", "gone.py:Net"], "--stanza.model gone.py:Net: no file gone.py"),
        (["--stanza.model", "nowhere:Net"], "--stanza.model nowhere:Net: no module nowhere"),
        (["--stanza.classes", "2"], "3 classes but the model has 2"),
        (["--stanza.image-shape", "1", "9", "9"], "images are 1x8x8 but the model takes 1x9x9"),
        (["--stanza.data", "digits", "--stanza.classes", "4"], "10 classes but the model has 4"),
    ],
)
def test_mistakes_are_one_line_before_ranks_start(
    flags: list[str], said: str, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(["run", str(job), *flags], capsys)


def test_a_profile_is_called_by_the_path_without_the_folder(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", f"{job.parent}/net.py:Net"]
    main(["profile", "stanza", *model, "--classes", "3", "--out", "net.json"])
    measured = profile.load(Path("net.json"))
    assert (measured.name, measured.batch_size) == ("net.py:Net", 8)
    cluster = ["--cluster", "local", "--nodes", "2", "--profile", "net.json"]
    other = refused(["plan", "stanza", "--model", "digits-cnn", *cluster], capsys)
    assert "--profile net.json: is of net.py:Net, the model is digits-cnn" in other
    Path("silent.py").write_text("from torch import nn\nclass Silent(nn.Identity): pass\n")
    silent = refused(
        ["profile", "stanza", "--model", "silent.py:Silent", "--out", "silent.json"], capsys
    )
    assert "--image-shape None: neither the model nor the data say it" in silent
    Path("odd.py").write_text(
        "from torch import nn\nimage_shape = (4, 4)\ndef memory(): return nn.LSTM(4, 2)\n"
    )
    odd = refused(["profile", "stanza", "--model", "odd.py:memory", "--out", "odd.json"], capsys)
    assert "--model odd.py:memory: a layer cannot be measured alone" in odd


def test_a_profile_of_an_earlier_network_is_refused(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", f"{job.parent}/net.py:Net"]
    main(["profile", "stanza", *model, "--classes", "3", "--out", "net.json"])
    halved = Path("halved", "net.py")
    halved.parent.mkdir()
    halved.write_text(own_code.NET.replace("144, 16", "144, 8").replace("Linear(16", "Linear(8"))
    capsys.readouterr()
    cluster = ["--cluster", "ten.toml", "--profile", "net.json"]
    device = profile.load(Path("net.json")).device
    ten = clusters.load("ec2-p3-10g").with_kind(device)
    Path("ten.toml").write_text(clusters.to_toml(ten))
    said = (
        "layer classifier.0 has 4,640 bytes of parameters, and 9,280 in the profile; profile it "
        "again with `launch profile stanza`"
    )
    for words in (
        ["plan", "stanza", *model, "--classes", "3", *cluster],
        ["simulate", str(job), *cluster],
    ):
        main(words)
        capsys.readouterr()
        words = [word.replace(model[1], str(halved) + ":Net") for word in words]
        changed = words if "plan" in words else [*words, "--stanza.model", f"{halved}:Net"]
        assert refused(changed, capsys).endswith(said)


def test_a_profile_takes_the_shape_from_the_data_too(job: Path) -> None:
    (job.parent / "net.py").write_text(own_code.NET.replace("image_shape, batch_size =", "_ ="))
    model = ["--model", f"{job.parent}/net.py:Net", "--data", f"{job.parent}/data.py:make"]
    main(["profile", "stanza", *model, "--batch-size", "2", "--out", "net.json"])
    assert profile.load(Path("net.json")).batch_size == 2


def test_a_plan_tells_the_speed_up_over_ddp_too(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "stanza", "--model", "alexnet", "--cluster", "ec2-p3-10g"])
    table = capsys.readouterr().out.splitlines()
    header = next(line for line in table if "samples/s" in line)
    assert header.split()[-8:-4] == ["x", "ps-blocking", "x", "DDP"]
    ddp = next(line for line in table if line.strip().startswith("ddp")).split()
    assert ddp[6] == "1.00x"
    stanza = next(line for line in table if line.startswith("* stanza")).split()
    ratio = float(stanza[5].replace(",", "")) / float(ddp[4].replace(",", ""))
    assert float(stanza[7].rstrip("x")) == pytest.approx(ratio, abs=0.01)


def test_a_shipped_profile_is_of_the_published_inputs_alone() -> None:
    at_home = SYSTEM.job(Options(model="alexnet"), world_size=10, cluster="ec2-p3-10g")
    basis = planning_basis(at_home, measure=False)
    assert basis is not None
    assert basis[1] == load_profile("alexnet")
    for changes in ({"image_shape": (3, 64, 64)}, {"classes": 10}):
        changed = at_home.with_options(**changes)
        assert planning_basis(changed, measure=False) is None
    with pytest.raises(InputError, match="no profile of it ships"):
        planning_basis(changed, measure=True)

"""The command line as a user meets it: help, bad input, exit codes."""

import json
from pathlib import Path

import pytest

from launch.__main__ import main

DIGITS = "launch/jobs/stanza-digits.toml"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command prints."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], ["rnu", "'run'"]),
        (["plan"], ["plan stanza"]),
        (["plan", "stanzza"], ["stanzza"]),
        (["plan", "stanza", "--model", "vgg61"], ["vgg61", "'vgg16'"]),
        (["plan", "stanza", "--cluster", "ec2"], ["--cluster ec2", "ec2-p3-10g"]),
        (
            ["plan", "stanza", "--global-batch-size", "9", "--local-batch-size", "2"],
            ["--local-batch-size 2", "give one"],
        ),
        (["plan", "stanza", "--model", "vgg16", "--profile", "no.json"], ["no.json", "no such"]),
        (["run", DIGITS, "--world-size", "1"], ["--world-size 1", "2 or more"]),
        (["run", DIGITS, "--stanza.fc-workers", "3"], ["--stanza.fc-workers 3", "at most 2"]),
        (["run", DIGITS, "--stanza.micro-batches", "33"], ["--stanza.micro-batches 33", "32"]),
        (["run", DIGITS, "--stanza.data", "folder:/none"], ["folder:/none", "no such folder"]),
        (["run", DIGITS, "--stanza.data", "mnist"], ["--stanza.data mnist", "digits"]),
        (["run", DIGITS, "--stanza.model", "vgg16"], ["digits", "1x8x8"]),
        (["run", DIGITS, "--cluster", "none.toml"], ["--cluster none.toml"]),
        (["run", DIGITS, "--stanza.global-batch-size", "2000"], ["batch-size 2000", "1437"]),
        (["run", "--again", "nowhere"], ["nowhere", "no record"]),
        (["run", "--again"], ["--again"]),
        (["run", DIGITS, "--again", "runs/one"], ["--again runs/one: stands first"]),
        (
            ["run", DIGITS, "--transport", "nccl", "--world-size", "99"],
            ["--transport nccl", "GPUs"],
        ),
        (["run", DIGITS, "--timeout-s", "inf"], ["--timeout-s inf", "a day"]),
        (["run", DIGITS, "--profile", "nope"], ["--profile nope"]),
        (["plan", "stanza", "--model", "vgg16", "--profile", "alexnet"], ["alexnet", "vgg16"]),
        (["plan", "stanza", "--model", "vgg16", "--out", "no/p.json"], ["--out no/p.json"]),
        (["plan", "stanza", "--model", "vgg16", "--out", "README.md"], ["README.md", "exists"]),
        (["plan", "sparsepipe", "--profiles", "tv,txq"], ["--profiles txq", "'txp'"]),
        (["plan", "sparsepipe", "--profiles", "tv,titanv"], ["--profiles", "TitanV"]),
        (["plan", "sparsepipe", "--profiles", "tv"], ["TitanV=1", "--bandwidth-bits-per-s"]),
        (["plan", "sparsepipe", "--devices", "TitanV=x"], ["--devices TitanV=x"]),
        (["plan", "sparsepipe", "--devices", "TitanW=1"], ["TitanW", "'TitanV'"]),
        (["plan", "sparsepipe", "--batch-size", "9000"], ["rank", "lacks", "bytes"]),
        (["plan", "sparsepipe", "--cluster", "local"], ["'local'", "bandwidth_bits_per_s"]),
        (["profile", "stanza", "--out", "no/p.json"], ["--out no/p.json"]),
        (["run", DIGITS, "--out", "README.md/sub"], ["--out README.md/sub"]),
        (["reproduce", "--out", "."], ["--out ."]),
        (["doctor", "now"], ["doctor now"]),
        (["reproduce", "sparse"], ["sparsepipe", "stanza"]),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(arguments, capsys)
    assert line.startswith("error: ")
    assert all(word in line for word in words), line


def test_mpirun_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launch.launchers.start.find_mpirun", lambda: None)
    line = refused(["run", DIGITS, "--launcher", "mpirun"], capsys)
    assert "--launcher mpirun" in line
    assert "pip install" in line


def test_a_taken_folder_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("four years")
    for command in (["run", DIGITS], ["reproduce"]):
        assert str(tmp_path) in refused([*command, "--out", str(tmp_path)], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_refused_job_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, empty = tmp_path / "new", tmp_path / "empty"
    empty.mkdir()
    for out in (new, empty):
        flags = ["--stanza.scheme", "ddp", "--stanza.global-batch-size", "2000", "--out", str(out)]
        assert "1437" in refused(["run", DIGITS, *flags], capsys)
    assert not new.exists()
    assert empty.exists()  # it is the user's


def test_a_folder_that_only_looks_like_a_reproduction_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "thesis.txt").write_text("four years")
    refused(["reproduce", "--out", str(tmp_path)], capsys)
    assert (tmp_path / "thesis.txt").read_text() == "four years"


def test_a_foreign_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launch.__main__.foreign_packages", lambda: {"stanza": "/else/stanza.py"})
    assert "/else/stanza.py" in refused(["run", DIGITS], capsys)


def test_plan_sparsepipe_prints_stages_and_baselines_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    flags = ["--devices", "TitanV=1,TitanXp=1", "--bandwidth-bits-per-s", "1e10"]
    main(["plan", "sparsepipe", "--profiles", "tv,txp", *flags, "--out", str(out)])
    text = capsys.readouterr().out
    assert text.startswith("plan sparsepipe | tier simulated (planner, no processes) | minkvgg16")
    assert "step 1175.5 ms, 108.9 samples/s, 14.8% above the fractional bound" in text
    assert ["data", "parallel,", "shares", "by", "speed", "1208.1"] in [
        line.split()[:6] for line in text.splitlines()
    ]
    plan = json.loads(out.read_text())
    assert plan["prediction"]["step_s"] == pytest.approx(1.1755, rel=1e-4)
    assert plan["cluster"]["nodes"][0]["device_link"]["bandwidth_bits_per_s"] == 1e10


def test_plan_prints_every_scheme_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    main(["plan", "stanza", "--model", "vgg16", "--cluster", "ec2-p3-10g", "--out", str(out)])
    text = capsys.readouterr().out
    assert "tier simulated" in text.splitlines()[0]
    for scheme in ("ps-blocking", "ps-pipelined", "ps-sharded", "ddp", "stanza"):
        assert scheme in text
    plan = json.loads(out.read_text())
    assert plan["bandwidth_bits_per_s"] == 10e9
    assert plan["chosen"]["fc_workers"] == 1


def test_plan_compares_schemes_at_one_global_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    flags = ["--nodes", "6", "--global-batch-size", "42", "--out", str(out)]
    main(["plan", "stanza", "--model", "alexnet", "--cluster", "ec2-p3-10g", *flags])
    assert "all workers of a scheme share 42 samples a step" in capsys.readouterr().out
    assert {p["samples"] for p in json.loads(out.read_text())["predictions"]} == {42}


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in ("run", "worker", "plan", "profile", "reproduce", "doctor"))
    assert "    plan stanza [flags]" in text
    assert "    train-pair [flags]" in text


@pytest.mark.parametrize(
    ("command", "subjects"),
    [
        ("plan", ["stanza", "sparsepipe"]),
        ("profile", ["stanza", "sparsepipe", "graph"]),
        ("bench", ["sparse", "speculative"]),
    ],
)
def test_help_of_a_command_lists_its_subjects(
    command: str, subjects: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([command, "--help"])
    text = capsys.readouterr().out
    assert all(f"    {command} {subject} [flags]" in text for subject in subjects)


def test_help_of_run_lists_again(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "--help"])
    assert stop.value.code == 0
    assert "--again" in capsys.readouterr().out


def test_ctrl_c_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.commands.run.main", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["run", DIGITS])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "error: stopped by SIGINT; what is done stays\n"

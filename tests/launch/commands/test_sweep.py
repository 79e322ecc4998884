"""A sweep keeps a record of every point, one table that only grows, and a figure of it."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from launch.commands import sweep_tiers
from launch.commands.run import prepare_run
from launch.commands.simulate import simulate_job
from launch.job import load_job
from launch.sweep.points import Point, Sweep
from stanza.planner.plan import load_profile
from systems.job import Job
from systems.profiles import profile

VGG16 = ["sweep", "launch/jobs/stanza-vgg16-random.toml"]
DIGITS = ["sweep", "launch/jobs/stanza-digits.toml"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command prints."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2, line
    return line


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "sweep"
    over = ["scheme=stanza,ddp,ps", "nodes=1,2,4", "bandwidth=1e9,10e9"]
    main([*VGG16, "--over", *over, "--baseline", "scheme=ddp", "--out", str(folder)])
    return folder


def test_the_table_has_a_row_for_every_point(simulated: Path) -> None:
    rows = table(simulated / "sweep.csv")
    assert len(rows) == 3 * 3 * 2
    places = [(r["scheme"], float(r["nodes"]), float(r["bandwidth_bits_per_s"])) for r in rows]
    assert places == sorted(places)
    assert len(set(places)) == len(rows)
    for row in rows:
        assert (row["system"], row["model"], row["tier"]) == ("stanza", "vgg16", "simulated")
        if row["scheme"] == "ps" and row["nodes"] == "1":  # a server and no worker
            assert row["error"].startswith("--over nodes 1")
            assert row["samples_per_s"] == row["record"] == ""
            continue
        result = json.loads(Path(row["record"], "result.json").read_text())
        assert float(row["samples_per_s"]) == result["samples_per_s"]
        assert float(row["step_s"]) == result["step_s"]
        assert int(row["batch_size"]) == result["samples_per_step"]
        (node,) = result["cluster"]["nodes"]
        assert node["link"]["bandwidth_bits_per_s"] == float(row["bandwidth_bits_per_s"])
        assert node["count"] == int(row["nodes"])


def test_every_scheme_and_size_does_the_jobs_global_batch(tmp_path: Path) -> None:
    """Also where it does not divide among the workers."""
    small = ["--stanza.model", "alexnet", "--stanza.fc-workers", "1"]
    over = ["scheme=stanza,ddp,ps", "nodes=4,6,8", "batch-size=42"]
    main([*VGG16, *small, "--over", *over, "--out", str(tmp_path)])
    rows = table(tmp_path / "sweep.csv")
    assert len(rows) == 3 * 3
    for row in rows:
        assert row["batch_size"] == "42"
        assert float(row["samples_per_s"]) * float(row["step_s"]) == pytest.approx(42)


def test_the_figure_is_the_table_over_its_baseline(simulated: Path) -> None:
    rates = {
        (r["scheme"], float(r["nodes"]), float(r["bandwidth_bits_per_s"])): float(
            r["samples_per_s"]
        )
        for r in table(simulated / "sweep.csv")
        if r["samples_per_s"]
    }
    expected = {
        (f"{scheme} {bandwidth / 1e9:g} Gb/s", nodes): rate / rates["ddp", nodes, bandwidth]
        for (scheme, nodes, bandwidth), rate in rates.items()
        if scheme != "ddp"
    }
    drawn = table(simulated / "speed-up.csv")
    found = {(row["series"], float(row["x"])): float(row["value"]) for row in drawn}
    assert found == pytest.approx(expected)
    assert {row["unit"] for row in drawn} == {"speed-up over scheme=ddp"}
    assert all("simulated, n=1" in row["panel"] for row in drawn)
    assert (simulated / "speed-up.png").is_file()
    assert (simulated / "speed-up.pdf").is_file()


def test_added_values_keep_all_rows_and_run_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*VGG16, "--out", str(tmp_path), "--over"]
    main([*command, "scheme=ddp", "nodes=2,4"])
    before = table(tmp_path / "sweep.csv")
    times = [Path(row["record"], "result.json").stat().st_mtime_ns for row in before]
    main([*command, "scheme=ddp,ps", "nodes=4"])
    after = table(tmp_path / "sweep.csv")
    assert [row for row in after if row["scheme"] == "ddp"] == before
    assert [(row["scheme"], row["nodes"]) for row in after] == [
        ("ddp", "2"),
        ("ddp", "4"),
        ("ps", "4"),
    ]
    assert [Path(row["record"], "result.json").stat().st_mtime_ns for row in before] == times
    assert "with 1 point of earlier sweeps" in capsys.readouterr().out
    assert {row["series"] for row in table(tmp_path / "samples-per-s.csv")} == {"ddp", "ps"}


def test_a_variable_that_comes_later_has_a_column_in_all_rows(tmp_path: Path) -> None:
    command = [*VGG16, "--stanza.fc-workers", "1", "--out", str(tmp_path), "--over"]
    main([*command, "nodes=4"])
    main([*command, "nodes=4", "micro-batches=2"])
    rows = table(tmp_path / "sweep.csv")
    assert {row["micro_batches"] for row in rows} == {"auto", "2"}


def test_a_variable_that_changes_nothing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A simulation knows nothing of the optimizer, and much of the number of nodes."""
    main([*VGG16, "--over", "momentum=0,0.9", "nodes=2,4", "--out", str(tmp_path)])
    said = [x for x in capsys.readouterr().out.splitlines() if x.startswith("warning:")]
    assert said == [
        "warning: momentum changes nothing here: simulated points are equal at all its values"
    ]


@pytest.mark.parametrize(
    ("over", "given", "missing"),
    [
        (["nodes=2,3"], [], "profile and cluster would"),
        (["nodes=2,3", "bandwidth=1e9"], [], "profile would"),
        (["nodes=2,3"], ["--stanza.model", "vgg16", "--profile", "FILE"], "cluster would"),
    ],
)
def test_points_that_each_measure_for_themselves_are_refused(
    over: list[str],
    given: list[str],
    missing: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    profile.save(dataclasses.replace(load_profile("vgg16"), device="cpu"), tmp_path / "vgg16.json")
    given = [word.replace("FILE", str(tmp_path / "vgg16.json")) for word in given]
    command = [*DIGITS, *given, "--over", *over, "--out", str(tmp_path / "sweep")]
    line = refused(command, capsys)
    assert line.startswith(f"error: --tier simulated: {missing} be measured anew at every point")
    assert ("--profile FILE" in line) == ("profile" in missing)
    assert ("--cluster FILE" in line) == ("cluster" in missing)
    assert not (tmp_path / "sweep").exists()


def test_where_nothing_has_numbers_there_are_bars(tmp_path: Path) -> None:
    main([*VGG16, "--over", "scheme=stanza,ddp", "model=vgg16,alexnet", "--out", str(tmp_path)])
    drawn = table(tmp_path / "samples-per-s.csv")
    rows = {f"{r['scheme']}\nmodel={r['model']}": r for r in table(tmp_path / "sweep.csv")}
    assert {row["x"]: row["value"] for row in drawn} == {
        name: row["samples_per_s"] for name, row in rows.items()
    }


def test_a_sweep_of_failures_ends_with_1(tmp_path: Path) -> None:
    command = [*VGG16, "--stanza.scheme", "zero1", "--over", "nodes=2,4", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 1
    errors = {row["error"] for row in table(tmp_path / "sweep.csv")}
    assert errors == {"--stanza.scheme zero1: is not simulated; use testbed run"}


def test_an_interrupted_sweep_keeps_its_rows_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(job: Job) -> Any:
        if job.world_size == 4:
            raise KeyboardInterrupt
        return simulate_job(job)

    command = [*VGG16, "--over", "nodes=2,4,8", "--out", str(tmp_path)]
    with monkeypatch.context() as patched:
        patched.setattr(sweep_tiers, "simulate_job", interrupted)
        with pytest.raises(SystemExit) as stop:
            main(command)
    assert stop.value.code == 130
    assert "1 point in the table; go on with: python -m launch" in capsys.readouterr().err
    assert [row["nodes"] for row in table(tmp_path / "sweep.csv")] == ["2"]
    main(command)
    assert [row["nodes"] for row in table(tmp_path / "sweep.csv")] == ["2", "4", "8"]


def test_points_that_run_elsewhere_are_collected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*DIGITS, "--over", "nodes=2,3", "--tier", "measured", "--elsewhere"]
    main([*command, "--out", str(tmp_path)])
    point = Point(tier="measured", repetition=0, values={"nodes": 2})
    sweep = Sweep(folder=tmp_path, base=load_job(Path(DIGITS[1])))
    assert f"2 ranks: python -m launch worker {sweep.job_file(point)}" in capsys.readouterr().out
    assert [row["error"] for row in table(tmp_path / "sweep.csv")] == ["not run yet"] * 2

    folder = prepare_run(load_job(sweep.job_file(point)))
    assert folder.samefile(sweep.record(point))
    (folder / "result.json").write_text('{"samples_per_s": 5.0, "usage": []}')
    main([*command, "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "left to run: 1 point." in out
    assert "3 ranks: python -m launch worker" in out
    done, left = table(tmp_path / "sweep.csv")
    assert done["samples_per_s"] == "5.0"
    assert left["error"] == "not run yet"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--over"], "--over (none)"),
        (["--over", "nodes=0,2"], "--over nodes 0: give 1 or more ranks"),
        (["--over", "model=vgg61"], "--stanza.model vgg61"),
        (["--over", "batch-size=0"], "--over batch-size 0: give whole numbers from 1 on"),
        (["--over", "bandwidth=0"], "--over bandwidth=0"),
        (["--over", "seed=0,1", "--repetitions", "2"], "--repetitions 2: each has a seed"),
        (["--over", "nodes=2", "--repetitions", "0"], "--repetitions 0"),
        (
            ["--over", "nodes=2", "--baseline", "nodes=4"],
            "--baseline nodes=4: this sweep varies it",
        ),
        (["--over", "nodes=2", "--baseline", "scheme=ddp"], "does not vary it"),
        (["--over", "nodes=2", "--baseline", "ddp"], "--baseline ddp: write NAME=VALUE"),
        (["--over", "nodes=2", "--x", "scheme"], "--x scheme: is not varied"),
        (["--over", "nodes=2", "--tier", "simulatd"], "--tier 'simulatd'"),
        (["--over", "nodes=2", "--scale", "2"], "--scale 2: is a factor of emulated clusters"),
        (["--over", "nodes=2", "--elsewhere"], "--elsewhere: real ranks run there"),
        (["--over", "bandwidth=1e9", "--tier", "measured"], "the links of its machines"),
        (["--over", "bandwidth=1e9", "--tier", "measured", "--elsewhere"], "--over bandwidth"),
        (["--over", "nodes=2", "--tier", "measured", "--launcher", "slurm"], "--launcher slurm"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused([*VGG16, *flags, "--out", str(tmp_path / "sweep")], capsys)
    assert words in line
    assert not (tmp_path / "sweep").exists()


def test_a_system_without_a_simulation_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["sweep", "launch/jobs/summarize.toml", "--over", "gamma=2,4"], capsys)
    assert "--system speculative: has no `testbed simulate`" in line


def test_help_explains_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("--over", "--baseline", "bandwidth", "--elsewhere"))

"""A record holds what was written even when its process dies, and overwrites nothing."""

import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from systems.runs import provenance, record
from systems.runs.record import (
    Step,
    StepWriter,
    claim_folder,
    read_json,
    read_run,
    read_steps,
    steps_file,
    write_json,
)
from systems.schema import InputError

metrics = st.dictionaries(
    st.text(max_size=6).filter(lambda key: key != "step"),
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
    max_size=3,
)
several_metrics = st.lists(metrics, max_size=4)


def written(folder: Path, values: list[dict[str, float]]) -> list[Step]:
    steps = [Step(index, each) for index, each in enumerate(values)]
    with StepWriter(folder, 0) as writer:
        for step in steps:
            writer.write(step)
    return steps


@settings(deadline=None)
@given(several_metrics)
def test_steps_round_trip(values: list[dict[str, float]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        steps = written(Path(name), values)
        assert read_steps(Path(name), 0) == steps


@settings(max_examples=200, deadline=None)
@given(several_metrics, st.floats(0, 1))
def test_torn_last_line_is_left_out(values: list[dict[str, float]], part: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        steps = written(Path(name), values)
        path = Path(name) / "steps" / "rank-0.jsonl"
        content = path.read_bytes()
        kept = content[: math.floor(part * len(content))]
        path.write_bytes(kept)
        ends = [i for i, byte in enumerate(content) if byte == ord("\n")]
        whole = sum(end <= len(kept) for end in ends)
        assert read_steps(Path(name), 0) == steps[:whole]


def test_every_step_can_be_read_at_once(tmp_path: Path) -> None:
    with StepWriter(tmp_path, 3) as writer:
        for index in range(3):
            writer.write(Step(index, {"loss": 0.5 * index}))
            steps = read_steps(tmp_path, 3)  # the file is still open
            assert steps == [Step(i, {"loss": 0.5 * i}) for i in range(index + 1)]


def test_ranks_write_files_of_their_own(tmp_path: Path) -> None:
    with StepWriter(tmp_path, 0) as first, StepWriter(tmp_path, 1) as second:
        second.write(Step(0, {"loss": 2.0}))
        first.write(Step(0, {"loss": 1.0}))
    assert read_steps(tmp_path, 0) == [Step(0, {"loss": 1.0})]
    assert read_steps(tmp_path, 1) == [Step(0, {"loss": 2.0})]


def test_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    claim_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_empty_folder_may_be_claimed(tmp_path: Path) -> None:
    claim_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["job.toml", ".hidden"])
def test_used_folder_is_refused_and_untouched(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match="holds files already"):
        claim_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(InputError, match="is a file"):
        claim_folder(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


def test_json_round_trip_leaves_nothing_beside_it(tmp_path: Path) -> None:
    value = {"tier": "measured", "numbers": [1, 2.5, None], "name": "é"}
    write_json(tmp_path / "result.json", value)
    write_json(tmp_path / "result.json", value)
    assert read_json(tmp_path / "result.json") == value
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_what_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "result.json", {"new": [1, object()]})
    assert read_json(tmp_path / "result.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies half way never touched the file that readers see."""
    write_json(tmp_path / "result.json", {"old": 1})

    def die(path: Path, text: str) -> int:
        with path.open("w") as file:
            file.write(text[: len(text) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", die)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "result.json", {"new": 2})
    assert read_json(tmp_path / "result.json") == {"old": 1}


def test_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no record there \(run\.json is missing\)"):
        read_json(tmp_path / "run.json")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: not JSON"):
        read_json(tmp_path / "run.json")


def test_a_record_of_strangers_is_read_or_refused(tmp_path: Path) -> None:
    run = {"tier": "measured", "system": "stanza", "environment": {}, "plan": {"stages": []}}
    write_json(tmp_path / "run.json", run)
    assert read_run(tmp_path) == run
    for key in run:
        write_json(tmp_path / "run.json", {**run, key: [3]} if key != "plan" else {"tier": "m"})
        with pytest.raises(InputError, match=r"run\.json: has no \w+: copy the whole record"):
            read_run(tmp_path)
    write_json(tmp_path / "run.json", [run])
    with pytest.raises(InputError, match=r"run\.json: is no table"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match=r"run\.json: not JSON"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        *("5", "[]", "{}", "null", '{"step": "1"}', '{"step": 2, "step_s": "fast"}'),
        *('{"step": 2, "step_s": {}}', '{"step": true}', "[" * 99_999, "\udcff"),
    ],
)
def test_steps_end_where_a_line_is_none(tmp_path: Path, line: str) -> None:
    path = steps_file(tmp_path, 0)
    path.parent.mkdir()
    good = '{"step": 0, "step_s": 1.5, "loss": null}\n'
    path.write_bytes((good + line + "\n" + good).encode("utf-8", "surrogateescape"))
    (step,) = read_steps(tmp_path, 0)
    assert (step.index, step.metrics["step_s"]) == (0, 1.5)


def test_environment_is_plain_data() -> None:
    found = provenance.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"]
    assert found["cores"] >= 1


def test_a_metric_that_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path: Path) -> None:
    with StepWriter(tmp_path, 0) as writer:
        writer.write(Step(0, {"loss_sum": 1.5}))
        writer.write(Step(1, {"loss_sum": math.nan, "samples": 4}))
        writer.write(Step(2, {"loss_sum": math.inf}))
    lines = (tmp_path / "steps" / "rank-0.jsonl").read_text().splitlines()
    assert lines[1] == '{"step": 1, "loss_sum": null, "samples": 4}'
    first, second, third = read_steps(tmp_path, 0)
    assert first.metrics == {"loss_sum": 1.5}
    assert math.isnan(second.metrics["loss_sum"])
    assert math.isnan(third.metrics["loss_sum"])
    assert second.metrics["samples"] == 4


def test_a_result_counts_what_is_not_finite_and_names_the_first_step() -> None:
    fine, lost = Step(0, {"loss_sum": 1.0}), {"loss_sum": math.nan, "step_s": 0.1}
    everyone = [[fine, Step(1, {"step_s": 0.1}), Step(2, lost)], [fine, Step(1, lost)]]
    summary = {"loss": [1.0, math.nan], "step_s": {"median": math.inf}, "test_accuracy": None}
    assert record.not_finite(everyone, summary) == {
        "not_finite_values": 4,
        "first_not_finite_step": 1,
    }
    assert record.not_finite(everyone, {})["not_finite_values"] == 2
    assert record.not_finite([[fine]], {"loss": [1.0]}) == {}

"""The reader of Sailor's published set, on tiny folders in its format."""

import json
from pathlib import Path
from typing import Any

import pytest

from systems.schema import InputError
from systems.validation import memory, sailor
from systems.validation.errors import compare, cross_validate, summaries
from systems.validation.job import Group, LeftOut, MeasuredJob
from systems.validation.times import Properties, stage_times
from tests.systems.validation.synthetic import MEGA, plan, write, write_costs

NO_HOST = Properties(host_s=0.0)


@pytest.fixture(autouse=True)
def no_shared_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESTBED_DATA", raising=False)


def read(folder: Path, **plans: dict[str, Any]) -> tuple[list[MeasuredJob], list[LeftOut]]:
    """What is read of these plans, which lie two folders deep beside the costs."""
    write_costs(folder)
    for name, table in plans.items():
        write(folder / f"plans/some/where/{name}.json", table)
    return sailor.read_jobs(sailor.find_folders(folder / "plans", None, None))


def test_a_plan_becomes_stages_on_machines(tmp_path: Path) -> None:
    (job,), left_out = read(tmp_path, one=plan([[("A", 2), ("A", 2)], [("B", 2), ("B", 2)]]))
    assert left_out == []
    assert (job.name, job.kind) == ("some/where/one", "mixed GPUs")
    assert [(one.first, one.end) for one in job.stages] == [(0, 2), (2, 4)]
    assert [r.machine for one in job.stages for r in one.replicas] == [0, 1, 2, 3]
    assert job.stages[1].replicas[0].group == Group(kind="B", degree=2)
    assert job.micro_batches == 4  # 16 samples, 2 in a micro-batch, 2 replicas
    assert (job.cluster.kinds, job.cluster.size) == (("A", "B"), 4)
    assert job.cluster.nodes[0].link.bandwidth_bits_per_s == 8e9


def test_small_groups_share_a_machine_and_its_links(tmp_path: Path) -> None:
    (job,), _ = read(tmp_path, one=plan([[("A", 1)] * 4, [("A", 1)] * 4], N=2))
    assert [r.machine for one in job.stages for r in one.replicas] == [0] * 4 + [1] * 4
    first, _ = stage_times(job, NO_HOST)
    # Of four replicas of 2 layers of 4 MB a ring passes 2 x 3/4 over the links inside, at 10 GB/s.
    assert first.ring_loads_s == {(0, "inside"): pytest.approx(12 * MEGA / 10e9)}
    assert job.kind == "A, micro-batch 2+"


def test_seconds_follow_from_the_files(tmp_path: Path) -> None:
    (job,), _ = read(tmp_path, one=plan([[("A", 2), ("A", 2)], [("A", 2), ("A", 2)]]))
    first, last = stage_times(job, NO_HOST)
    gather_s = 2 * MEGA / 10e9  # half of 4 MB comes from the other GPU
    assert first.forward_s[0] == pytest.approx(2 * 0.01 / 3)
    assert first.backward_s[0] == pytest.approx(4 * 0.01 / 3 + gather_s)
    assert last.forward_s[0] == pytest.approx(2 * 0.01 / 3 + gather_s)
    assert first.activations[0].seconds == pytest.approx(4 * MEGA / 1e9)
    assert first.activations[0].eager  # 2 MB for each GPU
    # Two replicas of 2 layers: 8 MB on each GPU, 2 x 1/2 of it, from both GPUs of a machine.
    assert first.ring_loads_s[0, "out"] == pytest.approx(16 * MEGA / 1e9)
    assert first.update_s == (0.002, 0.002)


def test_the_host_counts_where_the_gpu_is_busy(tmp_path: Path) -> None:
    """These layers' times grow with the batch: none of the host's work is hidden."""
    (job,), _ = read(tmp_path, one=plan([[("A", 1)]]))
    (alone,), (beside,) = stage_times(job, NO_HOST), stage_times(job, Properties(host_s=0.5))
    assert beside.forward_s[0] - alone.forward_s[0] == pytest.approx(0.5)


def test_memory_counts_parameters_and_micro_batches_in_flight(tmp_path: Path) -> None:
    same = [[("A", 1)], [("A", 1)]]
    (job, mixed), _ = read(tmp_path, one=plan(same), two=plan([[("A", 1)], [("B", 1)]]))
    held = memory.MemoryProperties(context_bytes=1.0, cached_share=0.0)
    at_stage = [20 * 2 * MEGA + flying * 2 * 16 * MEGA + 1 for flying in (2, 1)]
    assert memory.predict(job, held) == at_stage[0]
    assert memory.predict(mixed, held) == at_stage[1]  # the last stage's, as on that cluster


def test_without_sizes_of_layers_memory_is_not_predicted(tmp_path: Path) -> None:
    write_costs(tmp_path)
    (tmp_path / "models.json").unlink()
    write(tmp_path / "plans/one.json", plan([[("A", 2)]]))
    (job,), _ = sailor.read_jobs(sailor.find_folders(tmp_path / "plans", None, None))
    assert memory.predict(job) is None
    assert compare(job).memory.error is None


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (plan([[("A", 1)]], mbs=3), "no profile of TINY-1 on A at micro-batch 3"),
        (plan([[("C", 1)]]), "no network rate of C"),
        (plan([[("A", 1)]], real=None), "no measured seconds"),
        (plan([[("A", 1)], [("A", 1), ("A", 1)]]), "different numbers of replicas"),
        (plan([[("A", 1)]], mbs=0), "ZeroDivisionError"),
        ({"pipeline_list": [{}]}, "no measured seconds"),
        ({"pipeline_list": [{}], "real": 1.0}, "not a plan in this format: KeyError"),
        ({"pipeline_list": [], "real": 1.0}, "0 pipelines"),
    ],
)
def test_what_cannot_be_predicted_is_left_out_with_the_reason(
    table: dict[str, Any], why: str, tmp_path: Path
) -> None:
    jobs, (left,) = read(tmp_path, one=table)
    assert jobs == []
    assert why in left.why
    assert "\n" not in left.why


def test_a_missing_rate_inside_machines_leaves_a_plan_out(tmp_path: Path) -> None:
    write_costs(tmp_path)
    path = tmp_path / "network/network_coeffs_all_homo.json"
    write(path, {**json.loads(path.read_text()), "intra": {}})
    write(tmp_path / "plans/one.json", plan([[("A", 2)], [("A", 2)]]))
    _, (left,) = sailor.read_jobs(sailor.find_folders(tmp_path / "plans", None, None))
    assert left.why == "no network rate of A was measured"


def test_one_wrong_layer_number_is_corrected_and_two_are_not(tmp_path: Path) -> None:
    one, two = plan([[("A", 1)]]), plan([[("A", 1)]])
    one["pipeline_list"][0]["layers_per_stage"] = [[0, 1, 12, 3]]
    two["pipeline_list"][0]["layers_per_stage"] = [[0, 1, 12, 13]]
    (job,), (left,) = read(tmp_path, one=one, two=two)
    assert job.notes == ("its layer list says 12 for 2",)
    assert "not consecutive" in left.why


def test_groups_over_several_machines_are_left_out(tmp_path: Path) -> None:
    table = plan([[("A", 2)]])
    table["pipeline_list"][0]["tmp_per_stage"] = [[[[["A", 1, "a"], ["B", 1, "a"]], 2]]]
    _, (left,) = read(tmp_path, one=table)
    assert "over several machines" in left.why


def test_known_errors_and_equal_measurements_are_told(tmp_path: Path) -> None:
    (reduction, first, second), (left,) = read(
        tmp_path,
        N3_D1=plan([[("A", 1)]], real=59.45533),
        N4_D4=plan([[("A", 1)]], red_grads=1.06094, real=3.0),
        a=plan([[("A", 1)]]),
        b=plan([[("A", 2)]]),
    )
    assert "N6_D2" in left.why
    assert reduction.measured.reduction_s is None
    assert "not compared" in reduction.notes[0]
    assert first.notes == (
        "its measurements are also those of some/where/b: at most one can be right",
    )
    assert "some/where/a" in second.notes[0]


def test_the_folder_and_the_layers_must_say_one_model(tmp_path: Path) -> None:
    write_costs(tmp_path)
    other = tmp_path / "profiles/OTHER-2/A/mbs2_tmp1.json"
    write(other, {"model": {"num_layers": 9}})
    write(tmp_path / "plans/other/one.json", plan([[("A", 1)]]))
    _, (left,) = sailor.read_jobs(sailor.find_folders(tmp_path / "plans", None, None))
    assert left.why == "its folder says OTHER-2, its 4 layers say TINY-1"


def test_folders_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--plans"):
        sailor.find_folders(tmp_path / "none", None, None)
    (tmp_path / "plans").mkdir()
    with pytest.raises(InputError, match="--profiles"):
        sailor.find_folders(tmp_path / "plans", None, None)
    write_costs(tmp_path / "costs")
    with pytest.raises(InputError, match="--network"):
        sailor.find_folders(tmp_path / "plans", tmp_path / "costs/profiles", None)
    folders = sailor.find_folders(
        tmp_path / "plans", tmp_path / "costs/profiles", tmp_path / "costs/network"
    )
    assert folders.models == tmp_path / "costs/models.json"
    with pytest.raises(InputError, match="no plan in it"):
        sailor.read_jobs(folders)
    (tmp_path / "costs/network/network_coeffs_all_homo.json").write_text("{}")
    with pytest.raises(InputError, match="--network"):
        sailor.read_jobs(folders)


def test_errors_are_summed_up_by_kind_and_cross_validated(tmp_path: Path) -> None:
    jobs, _ = read(
        tmp_path,
        a=plan([[("A", 1)]], real=0.4),
        b=plan([[("A", 1)]], real=0.3),
        c=plan([[("A", 1)], [("B", 1)]], real=0.5, max_mem=None),
    )
    rows = [compare(job) for job in jobs]
    found = {one.kind: one for one in summaries(rows)}
    assert [one.plans for one in found.values()] == [2, 1, 2, 3]
    assert found["mixed GPUs"].memory is None
    checked = {one.property: one for one in cross_validate(jobs)}
    assert checked["host_s"].plans == 3
    assert checked["context_bytes"].plans == 2
    assert "ring_bytes_per_s" not in checked  # no plan has replicas

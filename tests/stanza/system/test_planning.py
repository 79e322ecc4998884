"""What a job is planned with: a cluster, a profile of its device, and what is measured here."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stanza.options import Options
from stanza.planner import plan as stanza_plan
from stanza.planner.plan import load_profile
from stanza.system import SYSTEM, measuring, planning
from stanza.system.planning import plan_stanza_job, planning_basis
from systems.clusters import cluster
from systems.clusters.host import FREE
from systems.profiles import measured_profile, profile
from systems.profiles.profile import ModelProfile
from systems.schema import InputError

FILES = Path("tests/launch/mistakes")
VGG16 = Options(model="vgg16")
SHIPPED = load_profile("vgg16")
HOST = replace(FREE, cores=2.0, source="a made up probe")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ranks shared this machine in each of its (made up) measurements."""
    ranks: list[int] = []

    def measure(options: Options, world_size: int, device: str) -> ModelProfile:
        ranks.append(world_size)
        return replace(SHIPPED, device="cpu", source="made up")

    monkeypatch.setattr(planning, "measure_rank", measure)
    monkeypatch.setattr(measuring, "measure_host", lambda size: HOST)
    monkeypatch.setattr(planning, "device_here", lambda: "cpu")
    return ranks


def test_this_machine_is_not_planned_with_another_devices_profile(measured: list[int]) -> None:
    """A profile of VGG-16 on a V100 ships; this machine is measured instead."""
    plan = plan_stanza_job(SYSTEM.job(VGG16, world_size=2), may_measure=True)
    assert measured == [2]
    assert plan.profile == "vgg16, batch 128, cpu: made up"
    assert plan.host == HOST
    assert plan.bandwidth_bits_per_s is None


def test_nothing_is_predicted_where_nothing_may_be_measured(measured: list[int]) -> None:
    job = SYSTEM.job(replace(VGG16, fc_workers=1), world_size=2)
    assert plan_stanza_job(job, may_measure=False).chosen is None
    assert measured == []


def test_nodes_of_this_machines_kind_are_measured_alone(
    measured: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = cluster.load("ec2-p3-10g").with_kind("cpu")
    path = tmp_path / "cpus.toml"
    path.write_text(cluster.to_toml(target))
    monkeypatch.setattr(stanza_plan, "shipped_profiles", dict)  # as of a model without any
    plan_stanza_job(SYSTEM.job(VGG16, world_size=10, cluster=str(path)), may_measure=True)
    assert measured == [1]


def test_a_profile_of_this_machine_is_taken_for_it(measured: list[int], tmp_path: Path) -> None:
    path = tmp_path / "vgg16.json"
    profile.save(replace(load_profile("vgg16"), device="cpu"), path)
    basis = planning_basis(SYSTEM.job(VGG16, profile=str(path)), measure=True)
    assert basis is not None
    assert basis[0].kinds == (basis[1].device,) == ("cpu",)
    assert measured == []
    with pytest.raises(InputError, match=r"--profile .* was taken on cpu, .* ec2-p3-10g are V100"):
        planning_basis(
            SYSTEM.job(VGG16, world_size=10, cluster="ec2-p3-10g", profile=str(path)), measure=True
        )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("two-kinds", "has A100, and the profile of vgg16 that ships was taken on V100"),
        ("several-devices", "line 4: node 'box' has 4 devices"),
        ("other-device", "are A100, and the profile of vgg16 that ships was taken on V100"),
    ],
)
def test_what_is_not_planned_for_is_not_emulated(name: str, said: str) -> None:
    path = str(FILES / f"cluster-{name}.toml")
    size = cluster.load(path).size
    assert SYSTEM.emulating is not None
    with pytest.raises(InputError, match=said):
        SYSTEM.emulating.plan(SYSTEM.job(VGG16, cluster=path, world_size=size))


def test_a_measurement_is_announced_with_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it begins: here it never does."""

    def never(*_: object, **__: object) -> ModelProfile:
        raise RuntimeError("begun")

    monkeypatch.setattr(measured_profile, "profile_model", never)
    with pytest.raises(RuntimeError, match="begun"):
        measuring.measure_rank(Options(model="digits-cnn"), 1)
    said = capsys.readouterr().err
    assert said.startswith("measuring digits-cnn, batch 32, on c")
    assert " and 0.1 GB of memory" in said
    assert "--profile FILE" in said


def test_a_long_measurement_is_not_begun_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that somebody asks for takes as long as it takes."""
    monkeypatch.setattr(measuring, "UNASKED_S", 0.0)
    threads = torch.get_num_threads()
    with pytest.raises(InputError, match=r"digits-cnn: no profile of it .* --profile FILE"):
        measuring.measure_rank(Options(model="digits-cnn"), 2)
    assert torch.get_num_threads() == threads

"""Jobs on a cluster whose nodes differ: profiles by kind, who runs where, what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stanza.options import Options
from stanza.planner.plan import load_profile
from stanza.system import SYSTEM
from stanza.system.mixed import mixed_basis, mixed_link_rates, plan_mixed_job, profile_of_rank
from stanza.system.planning import plan_stanza_job, resolved, unknown_figures
from systems.job import Job, with_absolute_files
from systems.profiles import profile as profiles
from systems.profiles.emulation import Emulation
from systems.schema import InputError

LAB = """
name = "lab"
source = "made up"

[[nodes]]
name = "slow"
count = 2
devices = [{ kind = "T4" }]
link = { bandwidth_bits_per_s = 10e9 }

[[nodes]]
name = "fast"
count = 2
devices = [{ kind = "V100" }]
link = { bandwidth_bits_per_s = 25e9 }
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A folder with a mixed cluster, lab.toml, and profiles of its two kinds of devices."""
    (tmp_path / "lab.toml").write_text(LAB)
    shipped = load_profile("vgg16")
    profiles.save(replace(shipped.slowed(2.5, "made up"), device="T4"), tmp_path / "t4.json")
    profiles.save(shipped, tmp_path / "v100.json")
    profiles.save(replace(shipped, name="alexnet"), tmp_path / "alexnet.json")
    return tmp_path


def job(lab: Path, profile: str | None = "T4=t4.json,V100=v100.json", **changes: Any) -> Job:
    options = Options(**{"model": "vgg16", "global_batch_size": 128, **changes})
    made = SYSTEM.job(options, world_size=4, cluster="lab.toml", profile=profile)
    return with_absolute_files(made, lab)


def test_every_rank_has_the_profile_and_the_link_of_its_node(lab: Path) -> None:
    wanted = job(lab, fc_workers=1, batch_shares="auto")
    plan = plan_mixed_job(wanted)
    assert plan.order == (2, 3, 0, 1)  # the FC worker is a slow node
    kinds = ["V100", "V100", "T4", "T4"]
    assert [profile_of_rank(wanted, plan, rank).device for rank in range(4)] == kinds
    rates = mixed_link_rates(wanted, plan, Emulation(scale=10))
    assert rates == (2.5e9, 2.5e9, 1e9, 1e9)
    assert sum(plan.shares) == 128
    assert plan.shares[0] > 2 * plan.shares[2]


def test_a_launcher_keeps_the_order_of_the_file(lab: Path) -> None:
    wanted = job(lab, fc_workers=1, batch_shares="auto")
    plan = SYSTEM.planning.plan(wanted, False)
    assert plan.order == (0, 1, 2, 3)
    assert plan.devices == ("T4", "T4", "V100", "V100")
    assert resolved(wanted, plan).options.batch_shares == "auto"


def test_a_simulation_is_near_the_plan(lab: Path) -> None:
    assert SYSTEM.simulate is not None
    played = SYSTEM.simulate(job(lab, batch_shares="auto"))
    assert played.result["step_s"] == pytest.approx(played.result["predicted_step_s"], rel=0.05)
    assert played.what.endswith("profile T4, V100, cluster lab")


def test_what_leaves_no_choice_needs_no_profile(lab: Path) -> None:
    given = job(lab, None, model="digits-cnn", scheme="ddp", batch_shares="1,1,3,3")
    plan = plan_stanza_job(given, may_measure=False)
    assert (plan.chosen, plan.order) == (None, ())
    assert unknown_figures(given) == []


def test_shares_by_speed_of_nodes_that_are_alike_are_equal(lab: Path) -> None:
    wanted = job(lab, "V100=v100.json", batch_shares="auto")
    alike = replace(wanted, cluster="ec2-p3-10g", world_size=10)
    plan = plan_stanza_job(alike, may_measure=False)
    assert resolved(alike, plan).options.batch_shares == "equal"


def test_shares_by_speed_are_refused_where_nobody_knows_it(lab: Path) -> None:
    here = replace(job(lab, None, batch_shares="auto", scheme="ddp"), cluster="local")
    with pytest.raises(InputError, match=r"--stanza.batch-shares auto: the speeds of the devices"):
        plan_stanza_job(here, may_measure=False)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (None, "has T4, and the profile of vgg16 that ships was taken on V100; .* T4=FILE.json"),
        ("v100.json", "is one profile for devices of several kinds; .*T4=FILE.json,V100=FILE.json"),
        ("T4=t4.json", "no V100; the cluster has T4 and V100"),
        ("T4=t4.json,V100=v100.json,A100=v100.json", "'A100' is no kind of device there"),
        ("T4=v100.json,V100=v100.json", "--profile T4=.*v100.json: was taken on V100"),
        ("T4=t4.json,V100=alexnet.json", "is of alexnet, the model is vgg16"),
        ("T4=,V100=v100.json", "'T4' is no kind of device there"),
    ],
)
def test_a_kind_without_a_profile_of_its_own_is_refused(
    lab: Path, profile: str | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        mixed_basis(job(lab, profile))


def test_another_number_of_nodes_and_several_devices_are_refused(lab: Path) -> None:
    with pytest.raises(InputError, match="--world-size 3: cluster lab mixes 4 nodes; give 4"):
        mixed_basis(replace(job(lab), world_size=3))
    (lab / "lab.toml").write_text(LAB.replace('"T4" }', '"T4", count = 4 }'))
    with pytest.raises(InputError, match=r"line 5: node 'slow' has 4 devices"):
        mixed_basis(job(lab))
    (lab / "lab.toml").write_text(LAB.replace("bandwidth_bits_per_s = 25e9", "latency_s = 1e-4"))
    with pytest.raises(InputError, match="node 'fast' has a link of unknown rate"):
        mixed_basis(job(lab))

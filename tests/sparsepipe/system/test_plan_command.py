"""What `testbed plan sparsepipe` prints."""

from sparsepipe.planner.plan import baseline_plan
from sparsepipe.system.plan_command import describe_plan
from tests.sparsepipe.planner.test_contiguous import chain, one_node


def test_4096_devices_are_on_a_screen_and_each_of_them_is_named_once() -> None:
    """Data parallel on two kinds of device: two lines, and none of the plan's devices is lost."""
    profiles = {"A": chain("A", [0.5, 1.0]), "B": chain("B", [1.0, 1.0])}
    plan = baseline_plan(
        "data parallel, shares by speed", profiles, one_node(A=2000, B=2096), schedule="gpipe"
    )
    assert plan is not None
    lines = describe_plan(plan, profiles, []).splitlines()
    assert len(lines) < 25
    assert max(map(len, lines)) < 200
    (stage,) = [line for line in lines if line.split()[:2] == ["0", "0-1"]]
    assert stage.endswith("   0-1999 A 0.00028; 2000-4095 B 0.00021")
    devices = [line.split() for line in lines if line.split()[0] in profiles]
    assert [(words[0], words[-1]) for words in devices] == [("A", "0-1999"), ("B", "2000-4095")]
    assert [replica.rank for replica in plan.stages[0].replicas] == list(range(4096))

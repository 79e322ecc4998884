"""ZeRO-1 to 3 compute the updates of one process, by DeepSpeed, on CPUs over gloo."""

import importlib.util

import pytest

from stanza.layout import layout_of
from stanza.options import ZERO_STAGES, Options
from stanza.planner.traffic import sizes_of, traffic
from stanza.system import SYSTEM
from systems.schema import InputError
from tests.stanza.train.test_loop import (
    STEPS,
    TOLERANCE,
    Case,
    baseline,
    difference,
    outcome,
    parameters,
    single,
)

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs the extra deepspeed"
)
UNEQUAL = 50
"""A batch that three workers cannot share evenly."""
CASES = {scheme: baseline(3, scheme=scheme, global_batch_size=UNEQUAL) for scheme in ZERO_STAGES}


@needs_deepspeed
@pytest.mark.distributed
@pytest.mark.parametrize("case", parameters(CASES, ["zero1", "zero2"]))
def test_updates_equal_those_of_one_process(case: Case) -> None:
    ours, theirs = outcome(case), single(case.options)
    assert len(ours.loss_sums) == STEPS
    assert ours.loss_sums == pytest.approx(theirs.loss_sums, rel=TOLERANCE)
    assert difference(ours.state, theirs.state) <= TOLERANCE
    accuracy = theirs.steps[0][-1].metrics["test_accuracy"]
    assert ours.steps[0][-1].metrics["test_accuracy"] == pytest.approx(accuracy, abs=0.01)


@needs_deepspeed
@pytest.mark.distributed
@pytest.mark.parametrize("case", parameters(CASES, ["zero1"]))
def test_no_stage_moves_less_than_the_traffic_table(case: Case) -> None:
    """gloo's reduce-scatter and all-gather move more than they need."""
    table = traffic(case.layout, sizes_of(case.options), [1, 1, 1])
    counted = outcome(case).totals("tcp_received_bytes_per_step")
    assert all(bytes_ >= 0.98 * row.received for bytes_, row in zip(counted, table, strict=True))


def test_stage_3_gathers_parameters_twice() -> None:
    sizes = sizes_of(Options())
    sent = {
        scheme: traffic(layout_of(Options(scheme=scheme), 4, 0, 1), sizes, [1] * 4)[0].sent
        for scheme in ("ddp", "zero1", "zero2", "zero3")
    }
    assert sent["zero1"] == sent["zero2"] == sent["ddp"]
    assert sent["zero3"] == 1.5 * sent["ddp"]


@pytest.mark.parametrize("command", ["emulate", "simulate"])
def test_only_real_runs_are_offered(command: str) -> None:
    job = SYSTEM.job(Options(model="vgg16", scheme="zero1"), cluster="ec2-p3-10g", world_size=4)
    emulating, simulate = SYSTEM.emulating, SYSTEM.simulate
    assert emulating is not None
    assert simulate is not None
    with pytest.raises(InputError, match=rf"zero1: is not {command[:-1]}"):
        emulating.plan(job) if command == "emulate" else simulate(job)

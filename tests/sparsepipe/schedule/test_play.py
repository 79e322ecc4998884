"""Simulated pipelines take the time that their formulas give."""

import csv
from pathlib import Path

import pytest

from sparsepipe.experiments.gantt import draw, traced_spans, two_steps
from sparsepipe.planner.order import fastest_schedule
from sparsepipe.schedule.costs import StageCost, crossings_s, enough_in_flight
from sparsepipe.schedule.lists import ScheduleKind, StageRanks, build_schedule
from sparsepipe.schedule.play import PlayedSchedule, play
from systems.clusters.cluster import Link
from systems.runs.trace import Tracer, join
from systems.schema import InputError
from tests.sparsepipe.schedule.faults import schedule_faults

LINK = Link(bandwidth_bits_per_s=8e9)  # 1 GB/s
CHAIN: StageRanks = ((0,), (1,), (2,))


def cost(forward_s: float, backward_s: float, crossing_s: float = 0.0) -> StageCost:
    """A stage of one rank whose output takes `crossing_s` over LINK, and its gradient as well."""
    return StageCost(
        forward_s=(forward_s,),
        backward_s=(backward_s,),
        shares=(1.0,),
        output_bytes=crossing_s * 1e9,
        gradient_bytes=crossing_s * 1e9,
    )


@pytest.mark.parametrize("kind", ["gpipe", "1f1b"])
@pytest.mark.parametrize("micro", [1, 2, 6])
def test_flushing_takes_a_bubble(kind: ScheduleKind, micro: int) -> None:
    schedule = build_schedule(kind, CHAIN, mini_batches=20, micro_batches=micro)
    pipeline = play(schedule, [cost(1, 2)] * 3, LINK)
    assert pipeline.step_s == pytest.approx((micro + 2) * 3)


def test_asynchronous_takes_the_slowest_stage() -> None:
    schedule = build_schedule("1f1b-async", CHAIN, mini_batches=30)
    pipeline = play(schedule, [cost(1, 2), cost(2, 3), cost(1, 1)], LINK)
    assert pipeline.step_s == pytest.approx(5)
    assert pipeline.utilisation(1) == pytest.approx(1)
    assert pipeline.utilisation(2) == pytest.approx(2 / 5)


def test_messages_hide_behind_more_mini_batches_in_flight() -> None:
    """By default two equal stages of time T with crossings c take T + c."""
    stages, costs = ((0,), (1,)), [cost(1, 2, 1.5), cost(1, 2)]
    default = play(build_schedule("1f1b-async", stages, mini_batches=30), costs, LINK)
    assert default.step_s == pytest.approx(3 + 1.5)
    held = enough_in_flight(costs, stages, LINK)
    assert held == (3, 1)
    more = build_schedule("1f1b-async", stages, mini_batches=30, in_flight=held)
    assert play(more, costs, LINK).step_s == pytest.approx(3)


def test_replicas_send_side_by_side() -> None:
    """Two a stage: the messages of twice as many bytes hide behind as many mini-batches."""
    stages: StageRanks = ((0, 1), (2, 3))
    costs = [
        StageCost(
            forward_s=(1, 1),
            backward_s=(2, 2),
            shares=(0.5, 0.5),
            output_bytes=crossing_s * 1e9,
            gradient_bytes=crossing_s * 1e9,
        )
        for crossing_s in (3.0, 0.0)
    ]
    assert crossings_s(costs, LINK) == [1.5]
    held = enough_in_flight(costs, stages, LINK)
    assert held == (3, 1)
    enough = build_schedule("1f1b-async", stages, mini_batches=30, in_flight=held)
    assert play(enough, costs, LINK).step_s == pytest.approx(3)
    fewer = build_schedule("1f1b-async", stages, mini_batches=30, in_flight=(2, 1))
    assert play(fewer, costs, LINK).step_s > 3.5


def test_the_fastest_schedule_holds_no_more_than_helps() -> None:
    stages, costs = ((0,), (1,)), [cost(1, 2, 1.5), cost(1, 2)]
    assert fastest_schedule(stages, costs, LINK, mini_batches=30).schedule.in_flight == (3, 1)
    free = fastest_schedule(stages, [cost(1, 2), cost(1, 2)], LINK, mini_batches=30).schedule
    assert (free.in_flight, free.late) == ((2, 1), (0, 0))


@pytest.mark.parametrize(("room", "held"), [(9, 5), (5, 5), (4, 4), (3, 3), (2, 2), (1, 2)])
def test_the_fastest_schedule_holds_no_more_than_fits(room: int, held: int) -> None:
    """Messages of 4 T ask for 5 mini-batches in flight; 2 are the fewest that there can be."""
    stages, costs = ((0,), (1,)), [cost(1, 2, 4), cost(1, 2)]
    found = fastest_schedule(stages, costs, LINK, mini_batches=40, fits=lambda n, _: n[0] <= room)
    assert found.schedule.in_flight == (held, 1)


def test_virtual_stages_hide_their_messages_too() -> None:
    """Two ranks with two stages each, 4.5 of work, crossings of 1."""
    stages: StageRanks = ((0,), (1,), (0,), (1,))
    costs = [cost(1, 2, 1), cost(0.5, 1, 1), cost(0.5, 1, 1), cost(1, 2)]
    default = play(build_schedule("1f1b-async", stages, mini_batches=40), costs, LINK)
    found = fastest_schedule(stages, costs, LINK, mini_batches=40)
    assert not schedule_faults(found.schedule)
    assert found.step_s < default.step_s
    assert found.step_s == pytest.approx(4.5, rel=0.1)


def test_replicas_of_a_stage_share_its_link_traffic() -> None:
    """Uneven shares: 0.75 of the first stage's output reaches rank 1, 0.25 rank 2."""
    front = cost(1, 1, crossing_s=4)
    back = StageCost(forward_s=(1.0, 1.0), backward_s=(1.0, 1.0), shares=(0.75, 0.25))
    schedule = build_schedule("gpipe", ((0,), (1, 2)), mini_batches=5)
    pipeline = play(schedule, [front, back], LINK)
    # Forward 1, all 4 GB to both: 4, forward and backward of the late one 2, its 3 GB of gradients
    # (the early one's are through by then) 3, backward 1.
    assert pipeline.step_s == pytest.approx(1 + 4 + 2 + 3 + 1)


def test_reduce_overlaps_all_but_the_last_part_of_backward() -> None:
    whole = StageCost(
        forward_s=(1.0, 1.0), backward_s=(2.0, 2.0), shares=(0.5, 0.5), parameter_bytes=8e8
    )
    pipeline = play(build_schedule("1f1b-async", ((0, 1),), mini_batches=9), [whole], LINK)
    assert pipeline.step_s == pytest.approx(1 + 2 + 0.1)
    late = build_schedule("1f1b-async", ((0, 1),), mini_batches=9, late_updates=True)
    assert play(late, [whole], LINK).step_s == pytest.approx(1 + 2)


def test_virtual_stages_fill_both_devices() -> None:
    """Each rank has two stages that only together weigh as much as the other's."""
    stages: StageRanks = ((0,), (1,), (0,), (1,))
    costs = [cost(1, 2), cost(0.5, 1), cost(0.5, 1), cost(1, 2)]
    pipeline = play(build_schedule("1f1b-async", stages, mini_batches=40), costs, LINK)
    assert pipeline.step_s == pytest.approx(4.5, rel=0.05)


def simulated() -> PlayedSchedule:
    schedule = build_schedule("1f1b-async", ((0,), (1,), (0,)), mini_batches=20)
    return play(schedule, [cost(1, 2, 0.1), cost(2, 3, 0.1), cost(1, 1)], LINK)


def test_a_gantt_chart_draws_what_lies_in_its_window(tmp_path: Path) -> None:
    pipeline = simulated()
    start_s, end_s = two_steps(pipeline)
    assert end_s - start_s == pytest.approx(2 * pipeline.step_s)
    png = draw(tmp_path / "a", pipeline.spans, title="(simulated)", window_s=(start_s, end_s))
    assert all(png.with_suffix(suffix).stat().st_size for suffix in (".png", ".pdf"))
    with png.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    inside = [s for s in pipeline.spans if s.end_s > start_s and s.start_s < end_s]
    assert len(rows) == len(inside) > 8
    assert {int(row["stage"]) for row in rows} == {0, 1, 2}


def test_a_run_is_drawn_from_its_trace(tmp_path: Path) -> None:
    for rank, stage in ((0, 0), (1, 1)):
        tracer = Tracer(tmp_path, rank)
        with tracer.span("forward", stage=stage, micro_batch=3):
            pass
        with tracer.span("something else"):
            pass
        tracer.close()
    spans = traced_spans(join(tmp_path, ["rank 0", "rank 1"]))
    found = sorted((span.rank, span.action, span.stage, span.micro_batch) for span in spans)
    assert found == [(0, "forward", 0, 3), (1, "forward", 1, 3)]
    end_s = max(span.end_s for span in spans)
    assert draw(tmp_path / "run", spans, title="(measured)", window_s=(0.0, end_s)).exists()


def test_too_few_mini_batches_have_no_steady_state() -> None:
    with pytest.raises(InputError, match="--mini-batches 6: give at least 7"):
        play(build_schedule("1f1b-async", CHAIN, mini_batches=6), [cost(1, 1)] * 3, LINK)

"""The cost model on plans small enough to compute by hand."""

import dataclasses

import pytest

from sparsepipe.planner.costs import costs_of
from sparsepipe.planner.predict import predict
from sparsepipe.planner.stages import Order, PlannedStage, Replica, ScheduleChoice
from sparsepipe.schedule.costs import stage_costs
from systems.clusters.cluster import Cluster, Device, Link, Node
from systems.profiles.profile import LayerProfile, ModelProfile
from systems.schema import InputError

ASYNC = ScheduleChoice(name="1f1b-async")


def layer(name: str, *inputs: str, seconds: float = 1.0, fixed: float = 0.0) -> LayerProfile:
    """Forward `seconds`, backward twice that, 100 bytes out, 40 bytes of parameters."""
    return LayerProfile(
        name=name,
        operation="layer",
        forward_s=seconds,
        backward_s=2 * seconds,
        activation_bytes=100,
        parameter_bytes=40,
        inputs=inputs,
        fixed_forward_s=fixed,
    )


def profile(*layers: LayerProfile) -> dict[str, ModelProfile]:
    return {"A": ModelProfile(name="m", device="A", batch_size=4, source="made up", layers=layers)}


def cluster(count: int, bytes_per_s: float = 100.0, latency_s: float = 0.0) -> Cluster:
    link = Link(bandwidth_bits_per_s=8 * bytes_per_s, latency_s=latency_s)
    node = Node(name="n", devices=(Device(kind="A", count=count),), link=link, device_link=link)
    return Cluster(name="c", source="made up", nodes=(node,))


def stage(first: int, end: int, **shares: float) -> PlannedStage:
    """Shares by rank: r0=0.5, ..."""
    replicas = (Replica(rank=int(r[1:]), device="A", share=x) for r, x in shares.items())
    return PlannedStage(first=first, end=end, replicas=tuple(replicas))


TWO = profile(layer("a"), layer("b", "a"))


def test_the_slower_of_computing_and_link_decides() -> None:
    stages = (stage(0, 1, r0=1.0), stage(1, 2, r1=1.0))
    quick = predict(costs_of(TWO, cluster(2)), stages, ASYNC)
    assert quick.step_s == pytest.approx(3.0)
    assert [times.transfer_s for times in quick.stages] == pytest.approx([1.0, 1.0])
    slow = predict(costs_of(TWO, cluster(2, bytes_per_s=10)), stages, ASYNC)
    assert slow.step_s == pytest.approx(10.0)


def test_replicas_all_reduce_in_a_ring() -> None:
    costs = costs_of(TWO, cluster(4, bytes_per_s=10))
    prediction = predict(costs, (stage(0, 2, r0=0.4, r1=0.2, r2=0.2, r3=0.2),), ASYNC)
    assert prediction.stages[0].all_reduce_s == pytest.approx(2 * 3 / 4 * 80 / 10)
    assert prediction.step_s == pytest.approx(12.0)  # longer than 0.4 of 6 s


def test_a_skip_over_a_cut_is_traffic_and_one_tensor_crosses_once() -> None:
    skip = profile(layer("a"), layer("b", "a"), layer("c", "a", "b"), layer("d", "a", "c"))
    assert costs_of(skip, cluster(1)).cut_bytes.tolist() == [0, 100, 200, 200, 0]


def test_a_share_that_stays_on_its_device_is_no_traffic() -> None:
    stages = (stage(0, 1, r0=1.0), stage(1, 2, r0=0.7, r1=0.3))
    prediction = predict(costs_of(TWO, cluster(2)), stages, ASYNC)
    assert prediction.stages[0].transfer_s == pytest.approx(0.3)
    by_rank = {device.rank: device for device in prediction.devices}
    assert by_rank[0].compute_s == pytest.approx(3 + 0.7 * 3)
    assert by_rank[1].transfer_s == pytest.approx(0.3 + 0.4)  # and the all-reduce of 40 bytes


def test_stashed_versions_and_activations_in_flight_take_memory() -> None:
    stages = (stage(0, 1, r0=1.0), stage(1, 2, r1=1.0))
    costs = costs_of(TWO, cluster(2))

    def memory(schedule: ScheduleChoice) -> list[int]:
        return [device.memory_bytes for device in predict(costs, stages, schedule).devices]

    assert memory(ASYNC) == [40 * (2 + 2) + 2 * 100, 40 * (1 + 2) + 200]
    assert memory(ScheduleChoice(name="gpipe", micro_batches=4)) == [40 * 3 + 100, 40 * 3 + 200]
    assert memory(ScheduleChoice(name="1f1b", micro_batches=4)) == [40 * 3 + 50, 40 * 3 + 50]


def test_more_in_flight_and_late_updates_take_more_memory() -> None:
    stages = (stage(0, 1, r0=0.75, r1=0.25), stage(1, 2, r2=1.0))
    order = Order(in_flight=(5, 1), late_updates=True)
    prediction = predict(costs_of(TWO, cluster(3)), stages, dataclasses.replace(ASYNC, order=order))
    # Late are the updates of replicas only: gradients that wait.
    weights = 40 * (5 + 2 + 1)
    expected = [weights + 0.75 * 500, weights + 0.25 * 500, 40 * (1 + 2) + 200]
    assert [device.memory_bytes for device in prediction.devices] == expected


def test_a_flushing_schedule_fills_and_drains() -> None:
    stages = (stage(0, 1, r0=1.0), stage(1, 2, r1=1.0))
    costs = costs_of(TWO, cluster(2, bytes_per_s=1e9, latency_s=0.25))
    prediction = predict(costs, stages, ScheduleChoice(name="1f1b", micro_batches=4))
    assert prediction.step_s == pytest.approx(3.0 * (4 + 2 - 1) / 4 + 2 * 0.25)


def test_gpipe_waits_for_the_slowest_forward_and_the_slowest_backward() -> None:
    first = dataclasses.replace(layer("a"), forward_s=4.0, backward_s=0.0)
    uneven = profile(first, layer("b", "a"))
    stages = (stage(0, 1, r0=1.0), stage(1, 2, r1=1.0))
    costs = costs_of(uneven, cluster(2, bytes_per_s=1e9))
    both = (
        ScheduleChoice(name="1f1b", micro_batches=2),
        ScheduleChoice(name="gpipe", micro_batches=2),
    )
    steps = [predict(costs, stages, schedule).step_s for schedule in both]
    assert steps == pytest.approx([7 / 2 + 4 / 2, 7 / 2 + (4 + 2) / 2])


def test_gpipe_waits_for_what_crosses_once_forward_and_once_backward() -> None:
    stages = (stage(0, 1, r0=1.0), stage(1, 2, r1=1.0))
    costs = costs_of(TWO, cluster(2, bytes_per_s=10))
    prediction = predict(costs, stages, ScheduleChoice(name="gpipe", micro_batches=2))
    # Forward 1 s, backward 2 s, and 10 s over the link each way, in halves one after another.
    assert prediction.step_s == pytest.approx(0.5 + 10 + 0.5 + 1 + 10 + 1)


def test_data_parallel_hides_its_all_reduce_behind_the_backward_pass() -> None:
    both = (stage(0, 2, r0=0.5, r1=0.5),)
    synchronous = ScheduleChoice(name="1f1b")
    hidden = predict(costs_of(TWO, cluster(2, bytes_per_s=40)), both, synchronous)
    assert hidden.step_s == pytest.approx(3.0 + 2.0 / 8)  # of eight parts the last one shows
    shown = predict(costs_of(TWO, cluster(2, bytes_per_s=20)), both, synchronous)
    assert shown.step_s == pytest.approx(1.0 + 4.0)  # forward, all-reduce
    uneven = (stage(0, 2, r0=0.75, r1=0.25),)
    shown = predict(costs_of(TWO, cluster(2, bytes_per_s=20)), uneven, synchronous)
    assert shown.step_s == pytest.approx(1.5 + 4.0)  # the slower replica holds up the ring


def test_every_micro_batch_pays_the_fixed_part() -> None:
    costs = costs_of(profile(layer("a", fixed=0.5)), cluster(1))
    alone = (stage(0, 1, r0=1.0),)
    steps = [
        predict(costs, alone, ScheduleChoice(name="1f1b", micro_batches=m)).step_s for m in (1, 4)
    ]
    assert steps == pytest.approx([3.0, 3.0 + 3 * 0.5])


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_mini_batch_pays_its_update_once(micro_batches: int) -> None:
    updated = profile(dataclasses.replace(layer("a"), update_s=0.5), layer("b", "a"))
    alone = (stage(0, 2, r0=1.0),)
    choice = ScheduleChoice(name="1f1b", micro_batches=micro_batches)
    costs = costs_of(updated, cluster(1))
    assert predict(costs, alone, choice).step_s == pytest.approx(6.5)
    shared = (stage(0, 2, r0=0.5, r1=0.5),)
    halves = predict(costs_of(updated, cluster(2, bytes_per_s=1e9)), shared, choice)
    assert halves.step_s == pytest.approx(3.5)  # every replica makes the whole update
    (cost,) = stage_costs({0: updated["A"]}, [(0, 2)], ((0,),), [(1.0,)], [0, 0, 0], micro_batches)
    played_s = micro_batches * (cost.forward_s[0] + cost.backward_s[0])
    assert played_s == pytest.approx(6.5)


def test_a_device_among_others_on_several_nodes_has_its_part_of_the_interface() -> None:
    inside, outside = Link(bandwidth_bits_per_s=800.0), Link(bandwidth_bits_per_s=100.0)
    pair = (Device(kind="A", count=2),)
    nodes = (Node(name="n", devices=pair, link=outside, device_link=inside, count=2),)
    costs = costs_of(TWO, Cluster(name="c", source="made up", nodes=nodes))
    assert [group.ranks for group in costs.classes] == [(0, 1, 2, 3)]
    assert costs.classes[0].link.bandwidth_bits_per_s == 50.0


def test_profiles_that_do_not_match_are_refused() -> None:
    mixed = Cluster(
        name="c",
        source="made up",
        nodes=(
            Node(
                name="n",
                devices=(Device(kind="A"), Device(kind="B")),
                link=Link(bandwidth_bits_per_s=1.0),
            ),
        ),
    )
    with pytest.raises(InputError, match="no profile"):
        costs_of(TWO, mixed)
    other = profile(layer("a"))["A"]
    with pytest.raises(InputError, match="differ in their layers"):
        costs_of({**TWO, "B": other}, mixed)
    with pytest.raises(InputError, match="--batch-size"):
        costs_of({**TWO, "B": TWO["A"].at_batch_size(8)}, mixed)
    with pytest.raises(InputError, match="not before it"):
        costs_of(profile(layer("a", "b"), layer("b")), cluster(1))


def test_a_link_of_unknown_rate_is_refused() -> None:
    nodes = (Node(name="n", devices=(Device(kind="A"),), link=Link()),)
    with pytest.raises(InputError, match="bandwidth_bits_per_s"):
        costs_of(TWO, Cluster(name="c", source="made up", nodes=nodes))

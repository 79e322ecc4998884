"""FC layers in columns and FC workers beside CONV workers compute the updates of one process.

In float64, for the reason that tests.stanza.train.test_loop gives. Bytes are counted in float32
runs.
"""

import operator
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

import stanza.train.loop
import stanza.workers.columns
from stanza.cut.separate import Parts, separate
from stanza.layout import even_slice
from stanza.models import ARCHITECTURES, build_model
from stanza.workers.columns import Peers, columns_of
from stanza.workers.fc_chain import linears
from stanza.workers.fc_worker import FcWorker
from systems.runs.record import Step
from systems.schema import InputError
from tests.ranks import RankError, run_ranks
from tests.stanza.train.test_loop import (
    DOUBLE_TOLERANCE,
    NARROW_TOLERANCE,
    OPTIONS,
    TOLERANCE,
    Case,
    Outcome,
    State,
    about,
    difference,
    expected_bytes,
    outcome,
    outcome_in_double,
    parameters,
    single,
    single_in_double,
    train,
)


def columns(conv: int, fc: int, micro: int = 1, **changes: Any) -> Case:
    return Case(conv + fc, fc, micro, replace(OPTIONS, fc_parallel="columns", **changes))


def colocated(nodes: int, fc: int, micro: int = 1, **changes: Any) -> Case:
    return Case(nodes, fc, micro, replace(OPTIONS, fc_placement="colocated", **changes))


CASES = {
    f"{conv} conv, {fc} fc in columns, {micro} micro-batch": columns(conv, fc, micro)
    for conv, fc, micro in [(2, 2, 1), (3, 2, 4), (3, 3, 4)]
}
CASES |= {
    f"{fc} fc of 3 nodes, {parallel}, {micro} micro-batch": colocated(
        3, fc, micro, fc_parallel=parallel
    )
    for fc, parallel, micro in [
        (1, "replicas", 4),
        (2, "replicas", 1),
        (2, "columns", 4),
        (3, "columns", 1),
        (3, "columns", 4),
    ]
}
CASES |= {
    "unequal shares in columns": columns(3, 2, 2, global_batch_size=50),
    "unequal shares, colocated columns": colocated(
        3, 3, 2, global_batch_size=50, fc_parallel="columns"
    ),
}
SLOW = {
    "2 conv, 2 fc in columns, 1 micro-batch",
    "3 conv, 3 fc in columns, 4 micro-batch",
    "2 fc of 3 nodes, replicas, 1 micro-batch",
    "3 fc of 3 nodes, columns, 1 micro-batch",
    "3 fc of 3 nodes, columns, 4 micro-batch",
    "unequal shares in columns",
}
"""Cases whose features other cases have as well, in other company."""
FEW = [columns(3, 2, 4), colocated(3, 3, fc_parallel="columns"), colocated(3, 2)]


@pytest.mark.distributed
@pytest.mark.parametrize("case", parameters(CASES, SLOW))
def test_parameters_and_losses_equal_those_of_one_process(case: Case) -> None:
    ours, theirs = outcome_in_double(case), single_in_double(case)
    assert difference(ours.state, theirs.state) <= DOUBLE_TOLERANCE
    assert ours.loss_sums == pytest.approx(theirs.loss_sums, rel=DOUBLE_TOLERANCE)


@pytest.mark.distributed
@pytest.mark.parametrize("case", FEW)
def test_float32_is_close_and_payload_is_that_of_the_traffic_table(case: Case) -> None:
    done, table = outcome(case), expected_bytes(case, payload=True)
    assert difference(done.state, single(case.options).state) <= NARROW_TOLERANCE
    assert done.totals("payload_sent_bytes_per_step") == about([row.sent for row in table])
    assert done.totals("payload_received_bytes_per_step") == about([row.received for row in table])
    assert 0.5 < done.steps[0][-1].metrics["test_accuracy"] <= 1


@pytest.mark.distributed
@pytest.mark.parametrize("case", FEW)
def test_tcp_carries_the_bytes_of_the_traffic_table(case: Case) -> None:
    table = expected_bytes(case, payload=False)
    received = outcome(case).totals("tcp_received_bytes_per_step")
    assert received == about([row.received for row in table])


# Controls: what is wrong is seen


def skip_the_sum() -> None:
    def own_part_only(peers: Peers, partial: Tensor, dimension: int) -> Tensor:
        own = peers.own(partial.shape[dimension])
        return partial.narrow(dimension, own.start, own.stop - own.start).clone()

    Peers.reduce_scatter = own_part_only  # type: ignore[method-assign, assignment]


def take_the_next_workers_columns() -> None:
    held = stanza.workers.columns.columns_of_linear
    stanza.workers.columns.columns_of_linear = lambda layer, index, count: held(
        layer, (index + 1) % count, count
    )


def leave_the_gradient_at_home() -> None:
    gather = Peers.all_gather

    def zeros(peers: Peers, own: Tensor, dimension: int, size: int) -> Tensor:
        return torch.zeros_like(gather(peers, own, dimension, size))

    Peers.all_gather = zeros  # type: ignore[method-assign, assignment]


def train_with(fault: Callable[[], None], case: Case) -> tuple[list[Step], State | None]:
    fault()
    return train(case)


@pytest.mark.distributed
@pytest.mark.parametrize(
    "fault",
    [
        skip_the_sum,
        pytest.param(take_the_next_workers_columns, marks=pytest.mark.slow),
        pytest.param(leave_the_gradient_at_home, marks=pytest.mark.slow),
    ],
)
def test_a_fault_is_seen(fault: Callable[[], None]) -> None:
    case = columns(2, 2)
    results = run_ranks(case.ranks, train_with, fault, case)
    wrong = Outcome(steps=[steps for steps, _ in results], state=results[0][1])
    assert difference(wrong.state, single(case.options).state) > 100 * TOLERANCE


def train_until_an_fc_worker_fails(case: Case) -> None:
    work, steps = FcWorker.step, list[int]()

    def fail(worker: FcWorker, *arguments: Any) -> float:
        steps.append(len(steps))
        if len(steps) == 3 and worker._transport.world.rank == case.ranks - 1:
            raise ArithmeticError("the FC worker's own trouble")
        return work(worker, *arguments)

    FcWorker.step = fail  # type: ignore[method-assign, assignment]
    train(case)


@pytest.mark.distributed
@pytest.mark.parametrize("parallel", ["replicas", "columns"])
def test_an_fc_worker_that_fails_beside_a_conv_worker_ends_the_run(parallel: Any) -> None:
    """With its own error, and before any time-out (60 s) is over."""
    case = colocated(3, 3, fc_parallel=parallel)
    with pytest.raises(RankError, match="the FC worker's own trouble"):
        run_ranks(case.ranks, train_until_an_fc_worker_fails, case, timeout_s=40)


# What can be split


@given(st.integers(0, 500), st.integers(1, 12))
def test_slices_tile(size: int, count: int) -> None:
    slices = [range(size)[even_slice(size, index, count)] for index in range(count)]
    assert [value for held in slices for value in held] == list(range(size))
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def alone() -> Peers:
    """One worker that holds all columns, and has nobody to talk to."""
    world: Any = SimpleNamespace(world=SimpleNamespace(rank=0))
    return Peers(world, (0,))


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "digits-cnn", "resnet50"])
def test_one_worker_has_the_models_own_fc_part(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name)
    parts = separate(model, ARCHITECTURES[name].image_shape)
    share = columns_of(parts, alone())
    outputs = share(torch.empty(2, parts.cut_values, device="meta"))
    assert outputs.shape == (2, ARCHITECTURES[name].classes)
    assert len(linears(parts)) == {"resnet50": 1, "digits-cnn": 2}.get(name, 3)


def test_parameters_are_views_of_the_models_own() -> None:
    parts = separate(build_model("digits-cnn"), (1, 8, 8))
    share = columns_of(parts, alone())
    activations = torch.randn(3, parts.cut_values)
    torch.testing.assert_close(share(activations), parts.fc(activations.view(3, *parts.cut_shape)))
    with torch.no_grad():
        for parameter in share.parameters():
            parameter.zero_()
    assert all(not parameter.any() for parameter in parts.fc.parameters())


class StandIn(nn.Module):
    """Says what it would compute, and splits itself."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

    def forward(self, inputs: Tensor) -> Tensor:
        assert inputs.shape[1] == self.in_features
        return inputs.new_full((len(inputs), self.out_features), 7.0)

    def columns(self, index: int, count: int) -> nn.Module:
        held = even_slice(self.in_features, index, count)
        return StandIn(held.stop - held.start, self.out_features)


def test_a_layer_that_splits_itself_may_stand_for_a_linear() -> None:
    fc = nn.Sequential(nn.Flatten(), StandIn(12, 5), nn.ReLU(), nn.Linear(5, 3))
    share = columns_of(Parts(nn.Identity(), fc, (3, 4)), alone())
    assert isinstance(share.get_submodule("1.partial"), StandIn)
    torch.testing.assert_close(share(torch.ones(2, 12)), fc(torch.ones(2, 3, 4)))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.layer(self.layer(inputs).relu())
        return output


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return operator.add(self.layer(inputs), inputs)


@pytest.mark.parametrize(
    ("fc", "words"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), "1 (BatchNorm1d)"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 2)), "1 (Softmax)"),
        (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 2)), "0 (Unflatten)"),
        (nn.Sequential(nn.Linear(2, 2)), "0 (Linear)"),
        (nn.Sequential(nn.Flatten()), "without a Linear"),
        (Twice(), "layer (Linear) is used twice"),
        (Residual(), "add does not read the layer before it alone"),
    ],
)
def test_what_is_no_chain_is_refused(fc: nn.Module, words: str) -> None:
    with pytest.raises(InputError) as error:
        linears(Parts(nn.Identity(), fc, (4,)))
    assert str(error.value).startswith("--stanza.fc-parallel columns: ")
    assert "give --stanza.fc-parallel replicas" in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_inception_is_refused() -> None:
    with torch.device("meta"):
        parts = separate(build_model("inception-v3"), (3, 299, 299))
    with pytest.raises(
        InputError, match=r"AuxLogits.fc \(Linear\) .*; give --stanza\.fc-parallel replicas"
    ):
        linears(parts)


def test_more_workers_than_features_are_refused() -> None:
    parts = Parts(nn.Identity(), nn.Sequential(nn.Linear(4, 2)), (4,))
    with pytest.raises(InputError, match=r"--stanza\.fc-workers 5: 0 has 4 inputs .* at most 4"):
        linears(parts, 5)

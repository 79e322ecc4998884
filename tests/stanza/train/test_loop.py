"""Every distributed scheme computes the updates of one process, and moves the bytes of the table.

Each run is made once, when the first test asks for it. Parameters and losses are compared in
float64: sums in another order differ in their last bit, and on some processors that is enough in
float32 to decide a ReLU or a maximum the other way, after which two runs part. Bytes are counted in
float32 runs.
"""

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor, nn

import stanza.train.evaluation
import stanza.train.loop
from stanza.layout import Layout, layout_of
from stanza.options import Options
from stanza.planner.traffic import Traffic, sizes_of, traffic
from stanza.train.batches import LocalBatch
from stanza.train.loop import training_steps
from stanza.train.workload import real_workload
from stanza.workers.conv_worker import from_wire, to_wire
from systems.environment import environment
from systems.network.distributed import Backend, start, stop
from systems.runs.record import Step
from systems.runs.trace import Tracer
from tests.ranks import run_ranks

STEPS = 20
TOLERANCE = 1e-5
"""Largest relative difference that float32 sums in another order may make."""
DOUBLE_TOLERANCE = 1e-13
"""Largest relative difference that float64 sums in another order may make in these runs."""
NARROW_TOLERANCE = 1e-2
"""The same where activations travel in 16 bits."""
BYTES_TOLERANCE = 0.02
OPTIONS = Options(steps=STEPS, global_batch_size=120)

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One distributed run."""

    ranks: int
    fc: int = 1
    micro: int = 1
    options: Options = OPTIONS
    seed: int = 3

    @property
    def layout(self) -> Layout:
        return layout_of(self.options, self.ranks, self.fc, self.micro)

    @property
    def batch(self) -> int:
        assert self.options.global_batch_size is not None
        return self.options.global_batch_size


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    steps: list[list[Step]]
    """By rank; the last step of a rank has its totals."""
    state: State

    @property
    def loss_sums(self) -> list[float]:
        """The loss of every step, summed over the samples of all ranks."""
        rows = [[step.metrics.get("loss_sum", 0.0) for step in steps[:-1]] for steps in self.steps]
        return [sum(losses) for losses in zip(*rows, strict=True)]

    def totals(self, name: str) -> list[float]:
        """One of the byte counters, by rank.

        Skips the test where the kernel does not count.
        """
        if any(name not in steps[-1].metrics for steps in self.steps):
            pytest.skip("this kernel does not count the bytes of connections")
        return [steps[-1].metrics[name] for steps in self.steps]


def train(case: Case, backend: Backend = "gloo") -> tuple[list[Step], State | None]:
    """One rank's run: its steps and, on rank 0, the trained parameters."""
    models = []
    workload = real_workload(case.options, case.layout, seed=case.seed)

    def build() -> Any:
        models.append(workload.build())
        return models[-1]

    place, roles = environment(), case.layout.roles
    world = start(place, roles, timeout_s=60, device="cpu", backend=backend)
    steps = training_steps(
        case.options,
        case.layout,
        world,
        replace(workload, build=build),
        seed=case.seed,
        transport="torch",
        tracer=Tracer.off(),
    )
    done = list(steps)
    stop(world)
    return done, models[-1].state_dict() if world.rank == 0 else None


@functools.cache
def outcome(case: Case) -> Outcome:
    results = run_ranks(case.ranks, train, case)
    return Outcome(steps=[steps for steps, _ in results], state=results[0][1])


def single(options: Options = OPTIONS, seed: int = 3) -> Outcome:
    """One process on the concatenated batch of `options`."""
    whole = replace(
        OPTIONS,
        scheme="single",
        global_batch_size=options.global_batch_size,
        learning_rate=options.learning_rate,
    )
    return outcome(Case(1, options=whole, seed=seed))


class SmallCNN(nn.Module):
    """A smaller relative of the network for digits: its runs take a third of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()
        )
        self.classifier = nn.Sequential(nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def train_in_double(case: Case, backend: Backend = "gloo") -> tuple[list[Step], State | None]:
    """One rank's run, all in float64, of a smaller network than that for digits; its accuracy,
    which is measured in float32, is left out."""
    torch.set_default_dtype(torch.float64)
    batches = stanza.train.loop.local_batches

    def in_double(*arguments: Any) -> Iterator[LocalBatch]:
        for batch in batches(*arguments):
            yield replace(batch, images=batch.images.double())

    stanza.train.loop.local_batches = in_double  # type: ignore[assignment]
    stanza.train.evaluation.accuracy = lambda *_, **__: 0.0  # type: ignore[attr-defined]
    exact: Any = {"cut_dtype": "float64"}
    if case.options.model == "digits":
        exact["model"] = f"{__name__}:SmallCNN"
    return train(replace(case, options=replace(case.options, **exact)), backend)


@functools.cache
def outcome_in_double(case: Case) -> Outcome:
    results = run_ranks(case.ranks, train_in_double, case)
    return Outcome(steps=[steps for steps, _ in results], state=results[0][1])


def single_in_double(case: Case) -> Outcome:
    size = case.options.global_batch_size
    return outcome_in_double(
        Case(1, options=replace(OPTIONS, scheme="single", global_batch_size=size))
    )


def difference(ours: State, theirs: State) -> float:
    """Largest relative difference of a parameter, in the Euclidean norm."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).norm() / theirs[key].norm()) for key in ours)


def stanza_case(conv: int, fc: int, micro: int = 1, **changes: Any) -> Case:
    return Case(conv + fc, fc, micro, replace(OPTIONS, **changes))


def baseline(ranks: int, **changes: Any) -> Case:
    return Case(ranks, options=replace(OPTIONS, **changes))


STANZA = {
    f"{conv} conv, {fc} fc, {micro} micro-batch": stanza_case(conv, fc, micro)
    for conv, fc, micro in [(1, 1, 4), (2, 1, 1), (3, 1, 4), (3, 2, 1), (3, 2, 4), (5, 2, 4)]
}
BASELINES = {
    "ps blocking": baseline(4, scheme="ps"),
    "ps pipelined": baseline(4, scheme="ps", ps_mode="pipelined"),
    "ps, two servers": baseline(4, scheme="ps", ps_servers=2),
    "ps, two servers pipelined": baseline(5, scheme="ps", ps_servers=2, ps_mode="pipelined"),
    "ps sharded": baseline(3, scheme="ps", ps_placement="colocated"),
    "ps sharded pipelined": baseline(3, scheme="ps", ps_placement="colocated", ps_mode="pipelined"),
    "ddp": baseline(3, scheme="ddp"),
}
UNEQUAL = {
    "stanza, unequal shares": stanza_case(3, 1, 2, global_batch_size=50),
    "stanza, unequal shares, two FC workers": stanza_case(3, 2, global_batch_size=50),
    "ddp, unequal shares": baseline(3, scheme="ddp", global_batch_size=50),
    "ps, unequal shares": baseline(4, scheme="ps", global_batch_size=50),
}
WEIGHTED = {
    "stanza, shares 4,1,1": stanza_case(3, 2, 2, global_batch_size=50, batch_shares="4,1,1"),
    "ddp, shares 5,2,1": baseline(3, scheme="ddp", global_batch_size=50, batch_shares="5,2,1"),
    "ps, shares 1,0.5,3": baseline(4, scheme="ps", global_batch_size=50, batch_shares="1,0.5,3"),
}
EXACT = STANZA | BASELINES | UNEQUAL | WEIGHTED
SLOW = {
    "1 conv, 1 fc, 4 micro-batch",
    "3 conv, 1 fc, 4 micro-batch",
    "ps, two servers",
    "ps sharded",
    "stanza, unequal shares",
    "ddp, unequal shares",
}
"""Cases whose features other cases have as well, in other company."""
NARROW = {name: stanza_case(3, 1, 2, cut_dtype=name) for name in ("bfloat16", "float16")}
ALL = EXACT | NARROW


def expected_bytes(case: Case, *, payload: bool) -> list[Traffic]:
    """The traffic table of a run, by rank; for `payload` only what goes through the transport."""
    sizes = sizes_of(case.options)
    layout = case.layout
    if payload and layout.scheme == "ddp":
        return [Traffic(0, 0)] * case.ranks
    if payload and layout.scheme == "stanza":
        sizes = replace(sizes, conv_bytes=0, fc_bytes=0)
    workers = len(layout.data_ranks)
    return traffic(layout, sizes, case.options.shares(workers))


def parameters(cases: dict[str, Case], slow: Collection[str] = SLOW) -> list[ParameterSet]:
    """The cases by their names; those whose names are in `slow` carry that marker."""
    return [
        pytest.param(case, id=name, marks=[pytest.mark.slow] if name in slow else [])
        for name, case in cases.items()
    ]


def about(values: list[float]) -> Any:
    return pytest.approx(values, rel=BYTES_TOLERANCE, abs=0)


@pytest.mark.distributed
@pytest.mark.parametrize("case", parameters(EXACT))
def test_parameters_equal_those_of_one_process(case: Case) -> None:
    ours, theirs = outcome_in_double(case), single_in_double(case)
    assert difference(ours.state, theirs.state) <= DOUBLE_TOLERANCE


@pytest.mark.distributed
@pytest.mark.parametrize("case", parameters(EXACT))
def test_every_loss_equals_that_of_one_process(case: Case) -> None:
    ours, theirs = outcome_in_double(case).loss_sums, single_in_double(case).loss_sums
    assert len(ours) == STEPS
    assert ours == pytest.approx(theirs, rel=DOUBLE_TOLERANCE)


@pytest.mark.distributed
def test_a_loss_of_ones_own_is_that_of_one_process() -> None:
    smooth: Any = {"loss": "torch.nn:CrossEntropyLoss", "loss_options": ("label_smoothing=0.2",)}
    ours = outcome_in_double(stanza_case(3, 1, 2, **smooth))
    theirs = outcome_in_double(baseline(1, scheme="single", **smooth))
    assert difference(ours.state, theirs.state) <= DOUBLE_TOLERANCE
    assert ours.loss_sums == pytest.approx(theirs.loss_sums, rel=DOUBLE_TOLERANCE)
    assert ours.loss_sums != pytest.approx(single_in_double(baseline(1)).loss_sums, rel=0.01)


class Wasteful(nn.Module):
    """A layer of it is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.conv = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)
        self.fc = nn.Linear(72, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(images).relu().flatten(1))
        return logits


@pytest.mark.distributed
@pytest.mark.parametrize("scheme", ["ddp", "ps", "stanza"])
def test_a_layer_that_is_never_used_is_left_alone(scheme: Any) -> None:
    wasteful: Any = {"model": f"{__name__}:Wasteful", "weight_decay": 0.1}
    ours = outcome_in_double(Case(3, options=replace(OPTIONS, scheme=scheme, **wasteful)))
    theirs = outcome_in_double(baseline(1, scheme="single", **wasteful))
    assert difference(ours.state, theirs.state) <= DOUBLE_TOLERANCE


@pytest.mark.distributed
@pytest.mark.parametrize("case", NARROW.values(), ids=NARROW.keys())
def test_a_narrow_cut_is_close_but_not_equal(case: Case) -> None:
    ours, exact = outcome(case), single()
    assert TOLERANCE < difference(ours.state, exact.state) <= NARROW_TOLERANCE
    assert ours.loss_sums == pytest.approx(exact.loss_sums, rel=NARROW_TOLERANCE)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 0.0), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)]
)
@pytest.mark.parametrize("batch", [1, 7, 4096])
def test_gradients_cross_the_cut_to_the_precision_of_the_wire(
    dtype: torch.dtype, tolerance: float, batch: int
) -> None:
    """Those of a large batch's mean are below what float16 can hold."""
    torch.manual_seed(0)
    gradient = torch.rand(50).add(0.5).mul(1e-3 / batch)
    wire = to_wire(gradient, dtype, batch)
    assert wire.dtype == dtype
    arrived = from_wire(wire, torch.float32, batch)
    torch.testing.assert_close(arrived, gradient, rtol=tolerance * 1.01, atol=0)


@pytest.mark.distributed
def test_training_lowers_the_loss() -> None:
    losses = single().loss_sums
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.distributed
def test_the_criterion_sees_a_learning_rate_one_percent_off() -> None:
    off = single(replace(OPTIONS, learning_rate=OPTIONS.learning_rate * 1.01))
    assert difference(off.state, single().state) > TOLERANCE
    assert off.loss_sums != pytest.approx(single().loss_sums, rel=TOLERANCE)


@pytest.mark.distributed
def test_the_criterion_sees_another_seed() -> None:
    assert difference(single(seed=4).state, single().state) > TOLERANCE


@pytest.mark.distributed
def test_the_criterion_sees_another_global_batch() -> None:
    wrong = single(replace(OPTIONS, global_batch_size=119))
    assert difference(wrong.state, single().state) > TOLERANCE


@pytest.mark.distributed
@pytest.mark.parametrize("case", parameters(ALL))
def test_payload_is_that_of_the_traffic_table(case: Case) -> None:
    table, done = expected_bytes(case, payload=True), outcome(case)
    assert done.totals("payload_sent_bytes_per_step") == about([row.sent for row in table])
    assert done.totals("payload_received_bytes_per_step") == about([row.received for row in table])


@pytest.mark.distributed
@pytest.mark.parametrize("case", parameters(ALL))
def test_tcp_carries_the_bytes_of_the_traffic_table(case: Case) -> None:
    """The kernel also counts collectives; among sent bytes it counts those sent again as well."""
    table, done = expected_bytes(case, payload=False), outcome(case)
    assert done.totals("tcp_received_bytes_per_step") == about([row.received for row in table])
    for sent, row in zip(done.totals("tcp_sent_bytes_per_step"), table, strict=True):
        assert sent >= row.sent * (1 - BYTES_TOLERANCE)


@pytest.mark.distributed
def test_only_rank_0_measures_accuracy() -> None:
    steps = outcome(STANZA["3 conv, 2 fc, 1 micro-batch"]).steps
    assert 0.5 < steps[0][-1].metrics["test_accuracy"] <= 1
    assert all("test_accuracy" not in rank[-1].metrics for rank in steps[1:])


@pytest.mark.distributed
def test_warm_up_is_outside_the_measured_window() -> None:
    (steps,) = single().steps
    assert steps[-1].metrics["window_steps"] == STEPS - OPTIONS.window_start()
    assert [step.index for step in steps] == list(range(STEPS + 1))


def test_tests_between_steps_change_neither_what_is_learned_nor_what_is_counted() -> None:
    """A test every six steps: after 6, 12 and 18 of 20, and at the end as always."""
    plain = stanza_case(3, 1, 4)
    tested = stanza_case(3, 1, 4, test_every=6)
    found = outcome(tested)
    assert difference(found.state, outcome(plain).state) < TOLERANCE
    counted = "payload_sent_bytes_per_step"
    assert found.totals(counted) == outcome(plain).totals(counted)
    tests = [step for step in found.steps[0] if "test_accuracy" in step.metrics]
    assert [step.index for step in tests] == [5, 11, 17, 20]
    trained_s = [step.metrics["trained_s"] for step in tests]
    assert trained_s == sorted(trained_s)
    assert all("test_accuracy" not in step.metrics for steps in found.steps[1:] for step in steps)


def test_a_run_need_not_be_tested() -> None:
    found = outcome(baseline(1, scheme="single", test_every=0, steps=2))
    assert "test_accuracy" not in found.steps[0][-1].metrics

"""Every exchange in real processes: who computes the same, what is sent, and what is learnt."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch

from stanza.exchanges.names import BUILT_IN
from stanza.layout import layout_of
from stanza.options import Options
from stanza.planner.traffic import sizes_of, traffic
from tests.stanza.exchanges.jobs import Done, run_jobs

pytestmark = pytest.mark.distributed

OWN = "tests.stanza.exchanges.own:"
DDP = Options(scheme="ddp", steps=12, global_batch_size=48)
PS = replace(DDP, scheme="ps")
STALE: Any = {"ps_consistency": "stale-synchronous"}
BYTES_TOLERANCE = 0.02
"""As in the tests of the plain schemes: the kernel also counts barriers."""

OF_TWO = {
    "ddp": DDP,
    "ddp by a hook": replace(DDP, exchange=f"{OWN}mean_hook"),
    "ddp by a codec": replace(DDP, exchange=f"{OWN}Identity"),
    "post-local-sgd, always": replace(
        DDP, exchange="post-local-sgd", exchange_options=("start=12",)
    ),
}
EXCHANGED: dict[str, Options] = {
    f"{scheme} {name}": replace({"ddp": DDP, "ps": PS}[scheme], exchange=name)
    for name, built_in in BUILT_IN.items()
    for scheme in built_in.paths
}
OF_THREE = {
    "ps": PS,
    "ps, two servers": replace(PS, ps_servers=2),
    "ps by a codec": replace(PS, exchange=f"{OWN}OBJECT"),
    "ps colocated bf16": replace(PS, ps_placement="colocated", exchange="bf16"),
    "s=0": replace(PS, ps_staleness=0, **STALE),
    "s=0, two servers": replace(PS, ps_staleness=0, ps_servers=2, **STALE),
    "s=0, pipelined": replace(PS, ps_staleness=0, ps_mode="pipelined", **STALE),
    "asynchronous": replace(PS, ps_consistency="asynchronous"),
    "ddp powersgd, two buckets": replace(DDP, exchange="powersgd", message_scale=20.0),
    "ddp top-k, two buckets": replace(DDP, exchange="top-k", message_scale=20.0),
    **EXCHANGED,
}
LEARNING = {
    "asynchronous": replace(PS, steps=120, ps_consistency="asynchronous"),
    "stale-synchronous": replace(PS, steps=120, ps_staleness=1, learning_rate=0.02, **STALE),
}
LOSSY = {
    name: replace(options, steps=150)
    for name, options in EXCHANGED.items()
    if options.exchange in ("top-k", "random-k", "1-bit", "powersgd", "post-local-sgd")
}


@functools.cache
def of_two() -> dict[str, Done]:
    return run_jobs(2, OF_TWO)


@functools.cache
def of_three() -> dict[str, Done]:
    return run_jobs(3, OF_THREE)


def same(ours: Done, theirs: Done) -> bool:
    """Whether two runs have left the very same parameters."""
    return all(torch.equal(ours.state[name], theirs.state[name]) for name in theirs.state)


@pytest.mark.parametrize("name", [name for name in OF_TWO if name != "ddp"])
def test_an_exchange_that_changes_nothing_is_plain_ddp(name: str) -> None:
    """A sum of two, halves and doubles are exact."""
    assert same(of_two()[name], of_two()["ddp"])


@pytest.mark.slow
def test_other_runs_leave_other_parameters() -> None:
    """The comparison above can fail."""
    assert not same(of_three()["ddp bf16"], of_three()["ps"])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("s=0", "ps"), ("s=0, two servers", "ps, two servers"), ("s=0, pipelined", "ps")],
)
def test_without_staleness_servers_are_synchronous(ours: str, theirs: str) -> None:
    assert same(of_three()[ours], of_three()[theirs])
    assert set(of_three()[ours].told("staleness")) == {0}
    assert of_three()[theirs].told("staleness") == []


def test_a_codec_that_loses_nothing_is_a_plain_server() -> None:
    """Changes are added to what was there, which rounds; what is lost is in the next change."""
    ours, theirs = of_three()["ps by a codec"], of_three()["ps"]
    for name, value in theirs.state.items():
        torch.testing.assert_close(ours.state[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OF_THREE)
def test_tcp_carries_the_bytes_of_the_formula(name: str) -> None:
    options, done = OF_THREE[name], of_three()[name]
    layout = layout_of(options, 3, 1, 1)
    rows = traffic(layout, sizes_of(options), options.shares(len(layout.data_ranks)))
    if "tcp_sent_bytes_per_step" not in done.steps[0][-1].metrics:
        pytest.skip("this kernel does not count the bytes of connections")
    collectives = 3 if options.exchange == "powersgd" else 1  # a bucket; each has headers
    small = 1400 * collectives * (2 if options.message_scale > 1 else 1)
    expected = [
        pytest.approx(row.received, rel=BYTES_TOLERANCE, abs=0 if row.received > 1e5 else small)
        for row in rows
    ]
    assert done.totals("tcp_received_bytes_per_step") == expected
    if options.scheme == "ps":
        payload = [pytest.approx(row.sent, rel=BYTES_TOLERANCE) for row in rows]
        assert done.totals("payload_sent_bytes_per_step") == payload


@pytest.mark.parametrize("staleness", [1, 2])
def test_the_bound_is_never_exceeded(staleness: int) -> None:
    """A worker that sleeps lets the other run ahead as far as it may, and no farther."""
    name = f"s={staleness}"
    jobs = {name: replace(PS, steps=20, ps_staleness=staleness, **STALE)}
    done = run_jobs(3, jobs, slow_rank=1, slow_s=0.02)[name]
    assert len(done.told("staleness")) == 2 * 20
    assert max(done.told("staleness")) == staleness


def test_stale_gradients_learn_digits_all_the_same() -> None:
    done = run_jobs(3, LEARNING)
    assert {name: run.accuracy > 0.9 for name, run in done.items()} == dict.fromkeys(LEARNING, True)
    told = done["asynchronous"].told("staleness")
    assert len(told) == 2 * 120
    assert max(told) >= 1


@pytest.mark.slow
def test_lossy_exchanges_learn_digits_all_the_same() -> None:
    """What random-k leaves for later steps comes when it is old, so it learns at small rates only,
    and for longer: at the default rate it ends anywhere between 10 and 84 %."""
    patient = {
        name: replace(options, steps=700, learning_rate=0.002, exchange_options=("density=0.1",))
        for name, options in LOSSY.items()
        if options.exchange == "random-k"
    }
    done = run_jobs(3, LOSSY | patient)
    assert {name: run.accuracy > 0.9 for name, run in done.items()} == dict.fromkeys(LOSSY, True)

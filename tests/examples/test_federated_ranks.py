"""The server and the clients of `examples/federated` as real processes."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from federated.learning import learn, make_parts
from federated.options import HALVED, Options
from federated.planning import halves, make_plan, wire
from federated.ranks import REPORT
from federated.system import SYSTEM
from torch import Tensor

from systems.environment import environment
from systems.network.distributed import start, stop
from systems.runs.checkpoint import open_checkpoints, read_model
from systems.runs.manifest import FINAL
from systems.runs.trace import Tracer
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

SMALL = Options(clients=12, steps=8, model="linear", batch_size=16, test_every=0)


def served(options: Options, folder: Path, every: int = 1) -> list[Mapping[str, Any]]:
    """Do this rank's part of a job; returns the metrics of its steps, and with the last ones the
    sizes of what it has sent, as a client. It leaves checkpoints."""
    from federated.training import opened

    place = environment()
    job = SYSTEM.job(options, world_size=place.world_size, checkpoint_every=every, seed=3)
    plan = make_plan(job)
    roles = SYSTEM.planning.roles(job, plan)
    world = start(place, roles, timeout_s=60, device="cpu")
    checkpoints = open_checkpoints(world, folder, every=every, keep=99, layout="", resume="auto")
    work: Any = opened(job, plan, None).work
    sizes, send = list[int](), dist.send

    def watched(tensor: Tensor, *to: Any, **more: Any) -> None:
        sizes.append(len(tensor))
        send(tensor, *to, **more)

    dist.send = watched  # the process ends with the test
    *found, last = [step.metrics for step in work.run(world, Tracer.off(), checkpoints)]
    stop(world)
    return [*found, {**last, "sent": sizes}]


def weights(folder: Path) -> Tensor:
    return read_model(folder / FINAL)["weights"]


def played(options: Options, concurrency: int) -> Tensor:
    """The parameters of the same job in one process, on a virtual clock."""
    job = SYSTEM.job(replace(options, concurrency=concurrency), world_size=1, seed=3)
    parts = make_parts(job)
    list(islice(learn(job, parts, wire(job)), options.steps))
    return parts.learner.server.snapshot()


HALVES = {"scheme": "fedavg", "upload": HALVED, "clients": 3}
FEDPROX = pytest.param({"scheme": "fedprox"}, marks=pytest.mark.slow)


@pytest.mark.parametrize("changes", [{"scheme": "fedavgm"}, HALVES, FEDPROX])
def test_rounds_of_processes_end_as_those_on_a_virtual_clock(changes: Any, tmp_path: Path) -> None:
    """The order in which clients end, and so that of the sum, is another. Clients send what they
    should: what they keep of adapters does not leave their process."""
    options = replace(SMALL, **changes)
    server, *clients = run_ranks(4, served, options, tmp_path, 8)
    expected = played(options, 3)
    torch.testing.assert_close(weights(tmp_path), expected, rtol=0, atol=1e-5)
    assert [metrics["updates"] for metrics in server[:-1]] == [3.0 * (i + 1) for i in range(8)]
    assert sum(last["flights"] for (last,) in clients) == 24
    shared = [expected[halves(options, 3, number)[0]] for number in range(24)]
    sent = [size for (last,) in clients for size in last["sent"] if size != REPORT]
    assert sorted(sent) == sorted(4 * len(part) for part in shared)


def test_nobody_waits_and_every_update_counts_once(tmp_path: Path) -> None:
    options = replace(SMALL, scheme="fedbuff", buffer_size=2, steps=20, lost=0.1)
    server, *clients = run_ranks(4, served, options, tmp_path, 20)
    steps, last = server[:-1], server[-1]
    assert [metrics["updates"] for metrics in steps] == [2.0 * (i + 1) for i in range(20)]
    assert 0 < sum(metrics["staleness"] for metrics in steps) / 20 < 2
    alive = sum(client["lived"] for (client,) in clients)
    dead = sum(client["flights"] for (client,) in clients) - alive
    assert 40 <= alive <= 43  # those in the air at the end are no part of the model
    assert dead >= steps[-1]["wasted_updates"] > 0
    assert last["test_accuracy"] > 0.3


def test_a_server_that_goes_on_ends_as_one_that_nothing_interrupted(tmp_path: Path) -> None:
    """With momentum. In rounds nothing is in the air at a checkpoint."""
    options = replace(SMALL, scheme="fedavgm", server_learning_rate=0.5)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_ranks(3, served, options, whole, 4)
    run_ranks(3, served, replace(options, steps=5), cut, 4)
    server, *_ = run_ranks(3, served, options, cut, 4)
    assert server[-1]["resumed_step"] == 4
    assert [metrics["updates"] for metrics in server[:-1]] == [10, 12, 14, 16]
    torch.testing.assert_close(weights(cut), weights(whole), rtol=0, atol=1e-5)


def test_one_process_goes_on_with_updates_in_the_air(tmp_path: Path) -> None:
    options = replace(SMALL, scheme="fedbuff", buffer_size=2, concurrency=5, steps=9)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ((*_, expected, _),) = run_ranks(1, served, options, whole, 4)
    run_ranks(1, served, replace(options, steps=6), cut, 4)
    ((*_, found, _),) = run_ranks(1, served, options, cut, 4)
    assert torch.equal(weights(cut), weights(whole))
    assert {**found, "step_s": 0} == {**expected, "step_s": 0}

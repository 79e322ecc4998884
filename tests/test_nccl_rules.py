"""Every scheme finishes 20 steps with one process's parameters over NCCL and through pinned memory,
as far as a CPU can show it: under NCCL's rules put over gloo, and with CUDA's streams imitated."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist
from torch import Tensor

from sparsepipe.experiments import equivalence
from sparsepipe.experiments.equivalence import RANKS, Case as Pipeline, one_process
from sparsepipe.experiments.small_pipelines import difference
from sparsepipe.schedule.lists import roles
from systems.environment import environment
from systems.network import gpu_transport, streams
from systems.network.distributed import Backend, start, stop
from systems.network.open_transport import open_transport
from systems.network.transport import TorchTransport, void
from tests.ranks import RankError, run_ranks
from tests.sparsepipe.runtime import test_run as pipelines
from tests.stanza.train import test_loop as training
from tests.stanza.workers import test_columns as columns
from tests.systems.network.fake_cuda import DEFAULT, fake_cuda
from tests.systems.network.nccl_rules import nccl_rules

LIMIT_S = 300
STANZA = {
    "stanza": training.stanza_case(2, 1, 2),
    "stanza, two FC workers": training.stanza_case(3, 2, 4),
    "stanza, columns": training.stanza_case(2, 2, 2, fc_parallel="columns"),
    "stanza, colocated": columns.colocated(3, 2, 2),
    "ps": training.baseline(3, scheme="ps"),
    "ps, pipelined": training.baseline(4, scheme="ps", ps_mode="pipelined"),
    "ps, colocated": training.baseline(3, scheme="ps", ps_placement="colocated"),
}
QUICK = {"ps", "1f1b, 2 stages of 1 and 3"}
"""The others are slow."""
WAYS: dict[Backend, Callable[[], AbstractContextManager[None]]] = {
    "nccl": nccl_rules,
    "gloo": fake_cuda,
}
"""How ranks on GPUs send: `--transport nccl` and the default."""

pytestmark = pytest.mark.distributed


def cases(table: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(name, way, marks=[] if name in QUICK and way == "nccl" else pytest.mark.slow)
        for name in table
        for way in WAYS
    ]


def train(case: training.Case, way: Backend) -> Any:
    with WAYS[way]():
        return training.train_in_double(case, way)


@pytest.mark.parametrize(("name", "way"), cases(STANZA))
def test_stanza_and_servers(name: str, way: Backend) -> None:
    case = STANZA[name]
    results = run_ranks(case.ranks, train, case, way, timeout_s=LIMIT_S)
    theirs = training.single_in_double(case)
    assert training.difference(results[0][1], theirs.state) <= training.DOUBLE_TOLERANCE


def run_pipeline(case: Pipeline, way: Backend, rules: Any = None) -> dict[str, Tensor]:
    with rules() if rules else WAYS[way]():
        world = start(environment(), roles(case.schedule), timeout_s=60, backend=way)
        ((_, state, _),) = pipelines.run_cases([case], world)
        stop(world)
        return state


@pytest.mark.parametrize(("name", "way"), cases(equivalence.CASES))
def test_pipelines(name: str, way: Backend) -> None:
    case = equivalence.CASES[name]
    results = run_ranks(RANKS, run_pipeline, case, way, timeout_s=LIMIT_S)
    assert difference(results[0], one_process(case)[1]) <= equivalence.TOLERANCE


# The rules find what they are there to find.


def send_before_all_have_met() -> None:
    """Both ranks of a pair receive first, as those of all three systems do."""
    with nccl_rules(meeting_s=1):
        world = start(environment(), ["worker"] * 2, timeout_s=60, backend="nccl")
        with mock.patch("systems.network.open_transport.NcclTransport", TorchTransport):
            transport = open_transport("torch", world, ["push", "pull"])
        mine, other = ("push", "pull") if world.rank else ("pull", "push")
        buffer = Tensor(3)
        receive = transport.irecv(buffer, 1 - world.rank, mine)
        transport.isend(buffer.clone(), 1 - world.rank, other)
        receive.wait()


def test_a_first_message_blocks_until_both_ranks_have_come() -> None:
    with pytest.raises(RankError, match="does not come to group"):
        run_ranks(2, send_before_all_have_met)


def wait_on_the_stream_that_computes(case: Pipeline) -> None:
    """As `Work.wait` does where no stream is chosen."""

    def finish(_: object, work: dist.Work, tensor: Tensor) -> Callable[[], None]:
        return lambda: void(work.wait())

    with (
        mock.patch.object(gpu_transport.NcclTransport, "_finish", finish),
        mock.patch.object(streams, "own", return_value=DEFAULT),
    ):
        run_pipeline(case, "nccl", partial(nccl_rules, limit_s=5))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpipe, 4 stages", "1f1b, U-Net, 3 stages"])
def test_a_wait_on_the_stream_that_computes_is_found(name: str) -> None:
    """As a deadlock while ranks connect or later, or by voxels that are read before they come."""
    deadlock = r"NCCL's rules: (a stream waits for a message|rank \d does not come)"
    with pytest.raises(RankError, match=rf"{deadlock}|batch index -?\d+ is not in"):
        run_ranks(RANKS, wait_on_the_stream_that_computes, equivalence.CASES[name])


@pytest.mark.slow
def test_groups_with_a_device_id_are_a_deadlock() -> None:
    """A header that is awaited early holds back the one for the next stage."""
    rules = partial(nccl_rules, eager=True, limit_s=5)
    case = equivalence.CASES["gpipe, 4 stages"]
    with pytest.raises(RankError, match="a stream waits for a message"):
        run_ranks(RANKS, run_pipeline, case, "nccl", rules)

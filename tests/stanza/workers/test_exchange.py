"""What an exchange leaves behind: nothing, so that one world can run any number of jobs."""

import gc
import sys
import weakref
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.distributed as dist

from stanza.layout import layout_of
from stanza.options import Options
from stanza.train.loop import training_steps
from stanza.train.workload import real_workload
from stanza.workers.exchange import AllReduce
from systems.environment import environment
from systems.network.distributed import start, stop
from systems.runs.trace import Tracer
from tests.ranks import run_ranks


@pytest.mark.distributed
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("scheme", ["ddp", pytest.param("ps", marks=pytest.mark.slow)])
def test_groups_and_their_threads_end_with_the_run(scheme: Literal["ddp", "ps"]) -> None:
    for counts in run_ranks(2, _threads_after_runs, scheme):
        assert counts[0] == counts[-1], counts


def _threads_after_runs(scheme: Literal["ddp", "ps"]) -> list[int]:
    """Gloo's threads in this process after each of two runs."""
    options = Options(steps=2, global_batch_size=20, scheme=scheme)
    layout = layout_of(options, 2, 1, 1)
    world = start(environment(), layout.roles, timeout_s=30, device="cpu")
    counts = []
    for _ in range(2):
        workload = real_workload(options, layout, 0)
        tracer = Tracer.off()
        steps = training_steps(
            options, layout, world, workload, seed=0, transport="torch", tracer=tracer
        )
        assert len(list(steps)) == 3
        del steps
        gc.collect()
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        counts.append(sum("gloo" in name for name in names))
    stop(world)
    return counts


@pytest.mark.distributed
def test_a_closed_exchange_has_freed_ddp() -> None:
    """Else gloo's thread and DDP may wait for each other, when the group is destroyed."""
    assert run_ranks(2, _ddp_after_close) == [None, None]


def _ddp_after_close() -> object:
    dist.init_process_group("gloo")
    group = dist.group.WORLD
    assert group is not None
    exchange = AllReduce(torch.nn.Linear(4, 3), group, partial(torch.optim.SGD, lr=0.1))
    outputs = exchange.forward(torch.ones(2, 4))
    exchange.expect_gradients(outputs)
    outputs.sum().backward()
    ddp = weakref.ref(exchange._module)
    exchange.close()
    dist.destroy_process_group()
    return ddp()

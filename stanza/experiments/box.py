"""The clusters in this machine on which the time to accuracy is measured.

A small network trains in milliseconds, so behind the paper's links of 10 Gb/s its parameters would
cost next to nothing. What decides between the schemes is the ratio of computing to communicating:
the seconds of a step's computation over the seconds in which all parameters pass through a link
once. The links here get the rate at which a small network has the ratio that the real one has on
the paper's cluster:

    rate = 8 * parameter bytes * ratio / seconds of a step here

The seconds of a step here are those of forward and backward passes while as many processes as there
will be ranks compute at once, each held to the share of a core that its rank will have: processor
time over the share, which other programs on a busy machine disturb least.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

from stanza.experiments.targets import CLUSTER
from stanza.options import Options
from stanza.planner.candidates import costs_at
from stanza.planner.plan import load_profile
from systems.clusters.cluster import Cluster, Device, Link, Node, load
from systems.processes import core_shares
from systems.processes.core_shares import CoreShares

USED = 0.8
"""The part of this machine's cores to which all ranks together are held."""
PROBE_S = 1.5
"""How long the steps of a network are timed."""
PATIENCE_S = 120.0
"""How long to wait for a process that times steps."""


@dataclass(frozen=True)
class Balance:
    """Computing and communicating on one node of the paper's cluster, or of one in this machine."""

    compute_s: float
    """The seconds of a step's forward and backward pass."""
    wire_s: float
    """The seconds in which all parameters pass through the node's link once."""

    @property
    def ratio(self) -> float:
        """Computing over communicating."""
        return self.compute_s / self.wire_s


def of_paper(model: str) -> Balance:
    """Compute the balance of one of the paper's models on the paper's cluster, from its profile."""
    profile, link = load_profile(model), load(CLUSTER).slowest_link
    costs = costs_at(Options(model=model), profile)(profile.batch_size)
    return Balance(costs.compute_s, link.seconds(costs.conv_bytes + costs.fc_bytes))


def parameter_bytes(model: str) -> float:
    """The bytes of the parameters of one of the paper's models."""
    return sum(layer.parameter_bytes for layer in load_profile(model).layers)


def link_rate_bits_per_s(step_s: float, parameter_bytes: float, ratio: float) -> float:
    """Compute the rate at which all parameters pass through a link in `step_s / ratio` seconds."""
    return 8 * parameter_bytes * ratio / step_s


def core_share(ranks: int) -> float:
    """The share of a core of each of so many ranks, here; in hundredths."""
    return min(1.0, int(100 * USED * (os.cpu_count() or 1) / ranks) / 100)


def cluster_of(name: str, ranks: int, rate_bits_per_s: float) -> Cluster:
    """A cluster in this machine with links of this rate."""
    share = core_share(ranks)
    return Cluster(
        name=name,
        source="This machine, its links slowed to the paper's ratio of computing to communicating",
        nodes=(
            Node(
                name="node",
                count=ranks,
                devices=(Device(kind=f"{share:g} of a core", core_share=share),),
                link=Link(bandwidth_bits_per_s=float(round(rate_bits_per_s, -5))),
            ),
        ),
    )


def steps_s(
    networks: Mapping[str, Options], ranks: int, batch_size: int, *, lasting_s: float = PROBE_S
) -> dict[str, float]:
    """Time a forward and backward pass of each network, by its name, while so many processes are at
    it at once, each held to its share of a core; returns the mean seconds.

    Args:
        batch_size: the samples in a pass.
        lasting_s: for how long each network is timed.

    Raises:
        RuntimeError: a process that times steps has died.
    """
    context = multiprocessing.get_context("forkserver")
    share = None if core_shares.unavailable() else core_share(ranks)
    context.set_forkserver_preload(["torch", "stanza.models.small"])
    meet = context.Barrier(ranks)
    pipes: list[Connection] = []
    with CoreShares([share] * ranks) as shares:
        processes = []
        for rank in range(ranks):
            ours, theirs = context.Pipe(duplex=False)
            enter = partial(shares.enter, rank)
            clock = time.perf_counter if share is None else time.process_time
            arguments = (enter, clock, meet, theirs, dict(networks), batch_size, lasting_s)
            process = context.Process(target=_time_steps, args=arguments, daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        try:
            times = [_received(pipe) for pipe in pipes]
        finally:
            for process in processes:
                process.join(timeout=1)
                process.kill()
                process.join()
    return {name: sum(of[name] for of in times) / ranks / (share or 1.0) for name in networks}


def _received(pipe: Connection) -> dict[str, float]:
    """Receive the times that a process has measured."""
    if not pipe.poll(PATIENCE_S):
        raise TimeoutError(f"the time of a step was not measured within {PATIENCE_S:g} s")
    try:
        times: dict[str, float] = pipe.recv()
    except EOFError:
        raise RuntimeError("a process that times steps has died; it has said why") from None
    return times


def _time_steps(
    enter: Callable[[], None],
    clock: Callable[[], float],
    meet: Barrier,
    pipe: Connection,
    networks: Mapping[str, Options],
    batch_size: int,
    lasting_s: float,
) -> None:
    """Time the passes of every network on one rank, in a process of its own, by a clock."""
    import torch
    from torch.nn.functional import cross_entropy

    from stanza.models import build_model

    torch.set_num_threads(1)
    enter()
    times = {}
    for name, options in networks.items():
        known = options.inputs
        assert known.image_shape is not None  # a network of ours says it
        model = build_model(options.model, known.classes, known.image_shape)
        images, labels = torch.randn(batch_size, *known.image_shape), torch.arange(batch_size) % 10
        passes, lasted_s = -1, 0.0  # the first one is a warm-up
        while lasted_s < lasting_s:
            model.zero_grad()
            cross_entropy(model(images), labels).backward()
            if passes < 0:
                meet.wait(PATIENCE_S)
                began_s, began = time.perf_counter(), clock()
            passes, lasted_s = passes + 1, time.perf_counter() - began_s
        times[name] = (clock() - began) / passes
        meet.wait(PATIENCE_S)  # nobody goes on while another is still timing
    pipe.send(times)


def described(model: str, network: str, step_s: float, parameter_bytes: float) -> str:
    """Say in a sentence how the rate of a network's links is derived."""
    paper, profile = of_paper(model), load_profile(model)
    rate = link_rate_bits_per_s(step_s, parameter_bytes, paper.ratio)
    return (
        f"{model} on {CLUSTER}: a step of {profile.batch_size} samples computes "
        f"{paper.compute_s * 1e3:.0f} ms, its parameters pass through a link in "
        f"{paper.wire_s * 1e3:.0f} ms, ratio {paper.ratio:.3g}. {network} here computes "
        f"{step_s * 1e3:.1f} ms, and its {parameter_bytes / 1e6:.2f} MB pass in "
        f"{step_s / paper.ratio * 1e3:.1f} ms at {rate / 1e6:.0f} Mb/s."
    )


def found(model: str, network: str, here: Balance, rate_bits_per_s: float) -> str:
    """Say in a sentence which ratio a network had in the end."""
    paper = of_paper(model)
    return (
        f"{model} on {CLUSTER}: a step computes {paper.compute_s * 1e3:.0f} ms and its parameters "
        f"pass through a link in {paper.wire_s * 1e3:.0f} ms, ratio {paper.ratio:.3g}; {network} "
        f"here at {rate_bits_per_s / 1e6:.0f} Mb/s: {here.compute_s * 1e3:.1f} and "
        f"{here.wire_s * 1e3:.1f} ms, ratio {here.ratio:.3g}."
    )

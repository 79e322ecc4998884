"""Ranks learn their place from any launcher, meet, and say by name who does not come."""

import dataclasses
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from systems.environment import LOOPBACK, Environment, environment, free_port
from systems.network.distributed import choose_device, start, stop
from systems.schema import InputError
from tests.ranks import listening, run_ranks

MASTER = {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29501"}
TORCHRUN = MASTER | {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
OPEN_MPI = MASTER | {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
MPICH = MASTER | {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
SLURM = MASTER | {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_TASKS_PER_NODE": "4",
    "SLURM_JOB_ID": "71234",
}
PLACE = Environment(
    launcher="none",
    rank=5,
    world_size=8,
    local_rank=1,
    local_world_size=4,
    master_address="10.0.0.7",
    master_port=29501,
)
ROLES = ("conv", "conv", "fc", "fc")
LIMIT_S = 60.0


# The launcher's variables


def test_place_from_torchrun() -> None:
    wanted = dataclasses.replace(
        PLACE, launcher="torchrun", attempt="2", run_id="none", agent_store=True
    )
    assert environment(TORCHRUN) == wanted


def test_torchruns_variables_set_by_others() -> None:
    plain = {k: v for k, v in TORCHRUN.items() if not k.startswith("TORCHELASTIC")}
    assert environment(plain) == dataclasses.replace(PLACE, launcher="local")


def test_deepspeeds_launcher_is_known_by_a_variable_of_its_own() -> None:
    plain = {k: v for k, v in TORCHRUN.items() if not k.startswith("TORCHELASTIC")}
    assert environment(plain | {"CROSS_RANK": "0"}).launcher == "deepspeed"


@pytest.mark.parametrize("variables", [OPEN_MPI, MPICH], ids=["Open MPI", "MPICH"])
def test_place_from_mpi(variables: Mapping[str, str]) -> None:
    assert environment(variables) == dataclasses.replace(PLACE, launcher="mpirun")


def test_place_from_slurm() -> None:
    assert environment(SLURM) == dataclasses.replace(PLACE, launcher="slurm")


def test_slurm_chooses_a_master_where_the_user_has_not() -> None:
    variables = {k: v for k, v in SLURM.items() if k not in MASTER}
    variables["SLURM_LAUNCH_NODE_IPADDR"] = "10.0.0.9"
    place = environment(variables)
    assert place.master_address == "10.0.0.9"
    assert 1024 < place.master_port < 65536
    # All ranks of a job choose the same port, another job another.
    assert environment(variables | {"SLURM_PROCID": "6"}).master_port == place.master_port
    assert environment(variables | {"SLURM_JOB_ID": "71235"}).master_port != place.master_port


def test_one_task_of_slurm_is_a_world_of_one() -> None:
    assert environment(SLURM | {"SLURM_NTASKS": "1"}).launcher == "none"


def test_torchrun_comes_before_mpi_and_slurm() -> None:
    assert environment(SLURM | OPEN_MPI | TORCHRUN).launcher == "torchrun"
    assert environment(SLURM | OPEN_MPI).launcher == "mpirun"


def test_slurms_own_pmi_is_not_mpirun() -> None:
    assert environment(SLURM | {"PMI_RANK": "1", "PMI_SIZE": "4"}).launcher == "slurm"


@pytest.mark.parametrize(
    ("variables", "size"),
    [
        (TORCHRUN, "LOCAL_WORLD_SIZE"),
        (OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE"),
        (MPICH, "MPI_LOCALNRANKS"),
        (SLURM, "SLURM_TASKS_PER_NODE"),
    ],
)
def test_ranks_that_are_all_here_meet_on_loopback(variables: dict[str, str], size: str) -> None:
    nowhere = variables | {"MASTER_ADDR": "no-such-host"}
    assert environment(nowhere).master_address == "no-such-host"
    assert environment(nowhere | {size: "8"}).master_address == "127.0.0.1"
    # So the launcher says that two of its agents are on this machine.
    assert environment(variables | {"MASTER_ADDR": "localhost"}).master_address == "127.0.0.1"


def test_ranks_may_be_anywhere_if_nobody_says_how_many_are_here() -> None:
    variables = {k: v for k, v in TORCHRUN.items() if k != "LOCAL_WORLD_SIZE"}
    assert environment(variables).master_address == "10.0.0.7"
    deepspeed = environment(variables | {"LOCAL_SIZE": "4"})
    assert (deepspeed.local_world_size, deepspeed.master_address) == (4, "10.0.0.7")
    assert environment(variables | {"LOCAL_SIZE": "8"}).master_address == "127.0.0.1"


def test_a_variable_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="not a number"):
        environment(TORCHRUN | {"RANK": "first"})


def test_no_launcher_is_a_world_of_one() -> None:
    place = environment({})
    assert (place.launcher, place.rank, place.world_size) == ("none", 0, 1)
    assert (place.local_rank, place.local_world_size) == (0, 1)
    assert (place.master_address, place.master_port) == (LOOPBACK, 0)


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        *((TORCHRUN, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", *MASTER)),
        *((OPEN_MPI, name) for name in OPEN_MPI if name.endswith(("SIZE", "LOCAL_RANK"))),
        *((MPICH, name) for name in ("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS")),
        *((SLURM, name) for name in ("SLURM_LOCALID", "SLURM_TASKS_PER_NODE")),
    ],
)
def test_missing_variable_is_named(variables: Mapping[str, str], missing: str) -> None:
    rest = {name: value for name, value in variables.items() if name != missing}
    with pytest.raises(InputError, match=f"the launcher did not set '{missing}'"):
        environment(rest)


def test_slurm_without_any_master_is_refused() -> None:
    rest = {name: value for name, value in SLURM.items() if name not in MASTER}
    with pytest.raises(InputError, match="SLURM_LAUNCH_NODE_IPADDR"):
        environment(rest)


# Devices


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Make torch believe that so many GPUs are here; the list gets those that are chosen."""

    def believe(count: int) -> list[int]:
        chosen: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    return believe


WithGpus = Callable[[int], list[int]]


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_cpu_is_taken_where_it_is_asked_for(count: int, with_gpus: WithGpus) -> None:
    assert not with_gpus(count)
    assert choose_device("cpu", PLACE) == torch.device("cpu")


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_too_few_gpus_mean_the_cpu(count: int, with_gpus: WithGpus) -> None:
    with_gpus(count)
    assert choose_device("auto", PLACE) == torch.device("cpu")


def test_enough_gpus_give_each_rank_its_own(with_gpus: WithGpus) -> None:
    chosen = with_gpus(4)
    assert choose_device("auto", PLACE) == torch.device("cuda", 1)
    assert choose_device("auto", PLACE, "nccl") == torch.device("cuda", 1)
    assert chosen == [1, 1]


@pytest.mark.parametrize(("count", "number"), [(1, 0), (2, 1), (3, 1)])
def test_ranks_share_gpus_where_they_are_asked_to(
    count: int, number: int, with_gpus: WithGpus
) -> None:
    with_gpus(count)
    assert choose_device("cuda", PLACE) == torch.device("cuda", number)
    with pytest.raises(InputError, match=f"nccl: 4 ranks on this node and {count} GPUs to use"):
        choose_device("cuda", PLACE, "nccl")


def test_cuda_needs_a_gpu(with_gpus: WithGpus) -> None:
    with_gpus(0)
    with pytest.raises(InputError, match="--device cuda: torch sees no GPU on this node"):
        choose_device("cuda", PLACE)


@pytest.mark.parametrize("launcher", ["emulate", "shape"])
@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_emulated_and_shaped_ranks_are_on_the_cpu(
    count: int, launcher: Any, with_gpus: WithGpus
) -> None:
    """Each is a node of its own with one rank, so a GPU would be enough for every one of them."""
    assert not with_gpus(count)
    place = dataclasses.replace(PLACE, launcher=launcher, local_rank=0, local_world_size=1)
    assert choose_device("auto", place) == torch.device("cpu")
    with pytest.raises(InputError, match=r"--device cuda: .*; leave it out"):
        choose_device("cuda", place)


def test_tasks_of_slurm_that_see_a_gpu_of_their_own_take_it(with_gpus: WithGpus) -> None:
    bound = environment(SLURM | {"CUDA_VISIBLE_DEVICES": "3", "SLURM_GPUS_ON_NODE": "4"})
    shared = environment(SLURM | {"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "1"})
    everyone = environment(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4"})
    assert [place.own_gpu for place in (bound, shared, everyone)] == [True, False, False]
    with_gpus(1)
    assert choose_device("auto", bound) == torch.device("cuda", 0)
    assert choose_device("auto", bound, "nccl") == torch.device("cuda", 0)
    assert choose_device("auto", shared) == torch.device("cpu")


# Meeting


@pytest.mark.parametrize("roles", [(), ("conv",) * 7, ("conv",) * 9])
def test_there_must_be_a_role_for_every_rank(roles: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=f"{len(roles)} roles for a world of 8 ranks"):
        start(PLACE, roles, timeout_s=1, device="cpu")


def meet(missing: tuple[int, ...]) -> tuple[str, float] | None:
    """What the ranks that come are told of those that do not, and after how long."""
    place = environment()
    if place.rank in missing:
        return None
    started = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        start(place, ROLES, timeout_s=1.0, device="cpu")
    return str(caught.value), time.monotonic() - started


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ((3,), "waiting for 1 of 2 fc workers: rank 3"),
        ((2, 3), "waiting for 2 of 2 fc workers: rank 2, rank 3"),
        ((1, 3), "waiting for 1 of 2 conv workers: rank 1; 1 of 2 fc workers: rank 3"),
        ((0,), "waiting for 1 of 2 conv workers: rank 0"),
    ],
)
def test_missing_ranks_are_named_with_their_roles(missing: tuple[int, ...], said: str) -> None:
    results = run_ranks(len(ROLES), meet, missing)
    assert [rank for rank, result in enumerate(results) if result is None] == list(missing)
    for text, lasted_s in filter(None, results):
        assert text.endswith(said)
        assert lasted_s < LIMIT_S / 2


def test_a_taken_port_is_no_missing_rank() -> None:
    with socket.create_server(("", 0)) as taken:
        place = dataclasses.replace(environment({}), master_port=taken.getsockname()[1])
        port = place.master_port
        with pytest.raises(InputError, match=f"port {port} cannot be .*in use; give another port"):
            start(place, ["single"], timeout_s=1, device="cpu")
    assert not dist.is_initialized()


def live() -> dict[str, Any]:
    """A life of a rank: start, groups, barrier, stop."""
    place = environment()
    world = start(place, ROLES[1:], timeout_s=LIMIT_S, device="cpu")
    alone, pair = world.group([0]), world.group([0, 2])
    total = torch.tensor([10.0**world.rank])
    if pair is not None:
        dist.all_reduce(total, group=pair)
    world.barrier("the middle")
    other = world.with_roles(["server", "worker", "worker"])
    result = {
        "names": [world.name(world.rank), other.name(world.rank)],
        "size": world.world_size,
        "alone": alone is None,
        "pair": pair is not None,
        "total": total.item(),
        "listening": listening(),
        "kind": (world.launcher, world.backend, world.device.type),
    }
    stop(world)
    return result | {"stopped": not dist.is_initialized()}


@pytest.fixture(scope="module")
def lives() -> list[dict[str, Any]]:
    """Three ranks' lives."""
    return run_ranks(3, live, timeout_s=LIMIT_S)


@pytest.mark.distributed
def test_world_starts_and_stops(lives: list[dict[str, Any]]) -> None:
    assert [x["names"] for x in lives] == [
        ["rank 0 (conv)", "rank 0 (server)"],
        ["rank 1 (fc)", "rank 1 (worker)"],
        ["rank 2 (fc)", "rank 2 (worker)"],
    ]
    for x in lives:
        assert x["size"] == 3
        assert x["kind"] == ("local", "gloo", "cpu")
        assert x["stopped"]


@pytest.mark.distributed
def test_group_is_for_its_members_and_never_of_one(lives: list[dict[str, Any]]) -> None:
    assert [x["alone"] for x in lives] == [True, True, True]
    assert [x["pair"] for x in lives] == [True, False, True]
    assert [x["total"] for x in lives] == [101.0, 10.0, 101.0]


@pytest.mark.distributed
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc/net")
def test_ranks_that_are_all_here_listen_on_loopback_only(lives: list[dict[str, Any]]) -> None:
    for x in lives:
        assert set(x["listening"]) == {"127.0.0.1"}


def restart() -> tuple[bool, bool]:
    """Keys as seen by the attempt that set them, and by the next one on the same store."""
    first = dataclasses.replace(environment({}), master_port=free_port())
    world = start(first, ["single"], timeout_s=LIMIT_S, device="cpu")
    world.store.set("record", "old")
    own = world.store.check(["record"])
    stop(world)
    second = dataclasses.replace(first, attempt="1", agent_store=True)
    again = start(second, ["single"], timeout_s=LIMIT_S, device="cpu")
    seen = again.store.check(["record"])
    stop(again)
    return own, seen


@pytest.mark.distributed
def test_keys_of_an_earlier_attempt_are_not_seen() -> None:
    assert run_ranks(1, restart) == [(True, False)]

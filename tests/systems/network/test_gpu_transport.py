"""Messages of GPUs keep the transports' contract: through pinned memory, and under NCCL's rules."""

import pytest

from tests.ranks import run_ranks
from tests.systems.network.fake_cuda import fake_cuda
from tests.systems.network.nccl_rules import nccl_rules
from tests.systems.network.transport_cases import NAMES, ROLES, Outcome, run_cases

LIMIT_S = 120
NCCL_NAMES = [name for name in NAMES if name != "silent_peer_is_named"]  # the watchdog names it

pytestmark = pytest.mark.distributed


def over_pinned_memory() -> Outcome:
    with fake_cuda():
        return run_cases("torch")


def over_nccl() -> Outcome:
    with nccl_rules():
        return run_cases("nccl", NCCL_NAMES)


@pytest.fixture(scope="module")
def pinned() -> list[Outcome]:
    return run_ranks(len(ROLES), over_pinned_memory, timeout_s=LIMIT_S)


@pytest.fixture(scope="module")
def nccl() -> list[Outcome]:
    return run_ranks(len(ROLES), over_nccl, timeout_s=LIMIT_S)


@pytest.mark.parametrize("name", NAMES)
def test_through_pinned_memory(name: str, pinned: list[Outcome]) -> None:
    for rank, outcome in enumerate(pinned):
        assert not outcome[name], f"rank {rank}:\n{outcome[name]}"


@pytest.mark.parametrize("name", NCCL_NAMES)
def test_under_the_rules_of_nccl(name: str, nccl: list[Outcome]) -> None:
    for rank, outcome in enumerate(nccl):
        assert not outcome[name], f"rank {rank}:\n{outcome[name]}"

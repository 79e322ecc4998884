"""Who computes on GPUs, before any rank is there: as `choose_device` decides in each of them."""

import pytest
import torch

from systems import gpus
from systems.environment import Environment
from systems.network.distributed import choose_device


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
@pytest.mark.parametrize("count", [0, 1, 2, 4])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_what_is_planned_for_is_what_ranks_take(
    ranks: int, count: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "gpu_names", lambda: ["a GPU"] * count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    place = Environment(
        launcher="none",
        rank=0,
        world_size=ranks,
        local_rank=0,
        local_world_size=ranks,
        master_address="127.0.0.1",
        master_port=1,
    )
    if device == "cuda" and not count:
        return  # refused by both
    taken = choose_device(device, place)  # type: ignore[arg-type]
    assert gpus.on_gpus(device, ranks) == (taken.type == "cuda")

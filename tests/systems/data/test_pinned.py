"""What is copied to a GPU is pinned before, and not waited for; a CPU's values stay as they are."""

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from systems.data.pinned import moved, pinned

GPU, CPU = torch.device("cuda"), torch.device("cpu")


class Copies(TorchFunctionMode):
    """Notes copies to a GPU, and makes none."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_for: list[bool] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function is Tensor.to and args[1] == GPU:
            self.waited_for.append(not kwargs["non_blocking"])
            return args[0]
        return function(*args, **(kwargs or {}))


def test_copies_to_a_gpu_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pins: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pins.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    images, targets = torch.ones(2, 3), {"labels": torch.arange(2), "name": "digits"}
    with Copies() as copies:
        first, (second,) = moved((images, [targets]), GPU)
    assert len(pins) == 2
    assert pins[0] is images
    assert pins[1] is targets["labels"]
    assert copies.waited_for == [False, False]
    assert torch.equal(first, images)
    assert second["name"] == "digits"


def test_what_is_on_a_gpu_is_not_pinned() -> None:
    somewhere = torch.ones(2, device="meta")  # which cannot be pinned either
    assert pinned([somewhere], GPU)[0] is somewhere


def test_values_for_a_cpu_stay_as_they_are() -> None:
    batch = (torch.ones(2), {"labels": torch.arange(2)})
    assert pinned(batch, CPU) is batch
    images, targets = moved(batch, CPU)
    assert images is batch[0]
    assert targets["labels"] is batch[1]["labels"]

"""The GPUs of this machine, without importing torch where there are none."""

import os

DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""The device files of NVIDIA's driver, of the one inside WSL, and of AMD's."""


def on_gpus(device: str, ranks: int) -> bool:
    """Whether so many ranks of this machine compute on GPUs with this `--device`, as
    `systems.network.distributed.choose_device` decides in each of them."""
    return device == "cuda" or (device == "auto" and len(gpu_names()) >= max(ranks, 1))


def gpu_names() -> list[str]:
    """The names of the GPUs that torch sees here, in torch's order.

    A machine that has none of the drivers has no GPU that torch could use. There the answer is
    empty, and the seconds that importing torch takes are saved.
    """
    if not any(map(os.path.exists, DRIVERS)):
        return []
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]

"""The GPUs of this machine, without importing torch where there are none."""

import os

DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""The device files of NVIDIA's driver, of the one inside WSL, and of AMD's."""


def gpu_names() -> list[str]:
    """The names of the GPUs that torch sees here, in torch's order.

    A machine that has none of the drivers has no GPU that torch could use. There the answer is
    empty, and the seconds that importing torch takes are saved.
    """
    if not any(map(os.path.exists, DRIVERS)):
        return []
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]

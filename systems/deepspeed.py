"""DeepSpeed, which some baselines need: a check that it is there, and an import of it."""

import importlib.util
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

from systems.schema import InputError

if TYPE_CHECKING:
    import torch


def check_installed(option: str) -> None:
    """Refuse an option, such as "--stanza.scheme zero1", where DeepSpeed is not installed.

    Raises:
        InputError: with the command that installs it.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError(
            f"{option}: DeepSpeed is not installed; install it with: "
            "pip install 'systems-testbed[deepspeed]'"
        )


def import_deepspeed(device: "torch.device", backend: str) -> Any:
    """Import DeepSpeed for this device and this backend of torch.distributed, without its messages.

    On CPUs it would first compile a kernel for all-reduces through shared memory. That takes half a
    minute, and waits for ever where an earlier compilation was killed. It is told not to: messages
    go over gloo here.

    Raises:
        InputError: gloo on a GPU. DeepSpeed sends from its memory, which gloo cannot read.
    """
    if device.type != "cpu" and backend == "gloo":
        raise InputError(
            "--transport torch: DeepSpeed sends from GPUs over NCCL alone; add --transport nccl or "
            "--device cpu"
        )
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # it calls old names
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed

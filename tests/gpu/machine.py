"""What the machine is, and how fast it moves bytes."""

import sys
from collections.abc import Iterator

import torch

from speculative.verification.build import find_nvcc
from systems.measure import timed
from systems.runs.provenance import environment
from tests.gpu.checks import sanitizer_here
from tests.gpu.parts import Row, Scale

GPU = torch.device("cuda")


def machine(scale: Scale) -> Iterator[Row]:
    """Versions, then the rates of a large copy and of a large sum, which reads alone."""
    properties = torch.cuda.get_device_properties(0)
    yield {
        **environment(),
        "gpu": torch.cuda.get_device_name(0),
        "capability": list(torch.cuda.get_device_capability(0)),
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "gpus_seen": torch.cuda.device_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _triton(),
        "python": sys.version.split()[0],
        "nvcc": find_nvcc(),
        "compute_sanitizer": sanitizer_here(),
    }
    source = torch.ones(scale.copy_bytes // 4, device=GPU)
    into = torch.empty_like(source)
    copied = timed(lambda: into.copy_(source), warm_up=3, repetitions=9, device=GPU)
    read = timed(lambda: source.sum(), warm_up=3, repetitions=9, device=GPU)
    yield {
        "copy_bytes_per_s": 2 * scale.copy_bytes / copied.median,
        "read_bytes_per_s": scale.copy_bytes / read.median,
    }


def _triton() -> str | None:
    """The version of Triton, if it is there."""
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)

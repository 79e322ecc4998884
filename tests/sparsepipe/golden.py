"""Reads golden files: what another library answered, written once where it is installed."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read_golden(path: Path) -> dict[str, dict[str, Tensor]]:
    """The arrays of every case; a file names them "case/name"."""
    cases: dict[str, dict[str, Tensor]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            case, name = key.split("/")
            cases.setdefault(case, {})[name] = torch.from_numpy(arrays[key])
    return cases

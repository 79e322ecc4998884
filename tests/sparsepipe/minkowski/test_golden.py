"""Layers, functions and networks written for MinkowskiEngine against its outputs and gradients:
live where it is installed, and as `make_golden.py` wrote them."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sparsepipe.minkowski as ME
from sparsepipe.engine.backends import backend
from systems.schema import InputError
from tests.sparsepipe.golden import read_golden
from tests.sparsepipe.minkowski.cases import CASES

GOLDEN = Path(__file__).parent / "golden.npz"
EQUAL = 1e-12
ROUNDED = {"merged-average": 1e-7}
"""Where the library itself rounds to float32: the weights of a mean of several rows."""


@functools.cache
def golden() -> dict[str, dict[str, Tensor]]:
    """The arrays of every case."""
    return read_golden(GOLDEN)


def library() -> Any:
    """MinkowskiEngine, or a skipped test."""
    try:
        backend("minkowski")
    except InputError as missing:
        pytest.skip(str(missing))
    import MinkowskiEngine

    return MinkowskiEngine


def assert_same(case: str, theirs: dict[str, Tensor]) -> None:
    """Ours with their parameters."""
    start = "state "
    state = {k.removeprefix(start): v for k, v in theirs.items() if k.startswith(start)}
    ours = CASES[case].run(ME, state)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        found = ours[name]
        assert found.shape == expected.shape, name
        if not expected.is_floating_point():
            assert torch.equal(found.long(), expected.long()), name
        elif expected.numel():
            size = max(float(expected.abs().max()), 1e-30)
            assert float((found - expected).abs().max()) <= ROUNDED.get(case, EQUAL) * size, name


@pytest.mark.parametrize("case", CASES)
def test_as_minkowskiengine_once_did(case: str) -> None:
    assert_same(case, golden()[case])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", CASES)
def test_as_minkowskiengine_does_here(case: str) -> None:
    assert_same(case, CASES[case].run(library()))

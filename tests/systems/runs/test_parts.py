"""Parts of tensors: the boxes of a stretch, and reading what was parted in other ways."""

import json
from itertools import pairwise
from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st

from systems.runs import tensor_files
from systems.runs.part_files import PARTS, fill, write, written
from systems.runs.parts import Named, Parts, boxes
from systems.runs.state import stretch
from systems.schema import InputError


@given(st.lists(st.integers(1, 4), max_size=4), st.data())
def test_boxes_are_the_values_of_a_stretch_in_their_order(
    shape: list[int], data: st.DataObject
) -> None:
    size = prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    whole = torch.arange(size).view(shape)
    found: list[int] = []
    for offsets, sizes in boxes(shape, start, stop):
        box = whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))]
        assert tuple(box.shape) == sizes
        found += box.reshape(-1).tolist()
    assert found == list(range(start, stop))


def test_what_servers_hold_is_read_as_columns(tmp_path: Path) -> None:
    whole = torch.arange(7 * 5 * 2, dtype=torch.float32).view(7, 5, 2)
    edges = [0, 3, 12, 41, 70]
    pieces: dict[tuple[int, ...], torch.Tensor] = {}
    for start, stop in pairwise(edges):
        values = whole.reshape(-1)[start:stop].clone()
        pieces |= stretch(whole, start, 0, stop - start).parts(values)
    saved: Named = {"weight": Parts((7, 5, 2), pieces), "bias": torch.ones(3)}
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        write(saved, tmp_path)
    finally:
        torch.distributed.destroy_process_group()

    left, right, bias = torch.zeros(7, 2, 2), torch.zeros(7, 3, 2), torch.zeros(3)
    fill({"weight": Parts((7, 5, 2), {(0, 0, 0): left, (0, 2, 0): right}), "bias": bias}, tmp_path)
    assert torch.equal(torch.cat([left, right], 1), whole)
    assert torch.equal(bias, torch.ones(3))


def test_parts_that_overlap_are_refused(tmp_path: Path) -> None:
    part = json.dumps({"w@0": {"tensor": "w", "shape": [4], "offsets": [0]}})
    for rank in range(2):  # both have the first half: together as many values as the whole
        path = tmp_path / f"rank-{rank}.safetensors"
        tensor_files.write(path, {"w@0": torch.ones(2)}, {PARTS: part})
    with pytest.raises(InputError, match="the saved parts of w overlap"):
        written(tmp_path)


@pytest.mark.parametrize(
    ("saved", "wanted", "holds"),
    [
        (torch.float64, torch.float32, True),
        (torch.int64, torch.float32, True),
        (torch.float32, torch.int64, False),
        (torch.complex64, torch.float32, False),
    ],
)
def test_values_that_a_dtype_does_not_hold_are_refused(
    tmp_path: Path, saved: torch.dtype, wanted: torch.dtype, holds: bool
) -> None:
    values = torch.arange(4).to(saved)
    tensor_files.write(tmp_path / "rank-0.safetensors", {"n": values}, {PARTS: "{}"})
    target = torch.zeros(4, dtype=wanted)
    if holds:
        fill({"n": target}, tmp_path)
        assert target.tolist() == [0, 1, 2, 3]
    else:
        with pytest.raises(InputError, match=rf"n is {saved}, which {wanted} does not hold"):
            fill({"n": target}, tmp_path)

"""Targets keep their structure: what is split is what is joined."""

import pytest
import torch
from hypothesis import given, strategies as st

from stanza.workers.targets import check_targets, empty, joined, rows, split
from systems.schema import InputError


def some(samples: int) -> dict[str, object]:
    labels = torch.arange(samples)
    return {"label": labels, "boxes": (labels.view(-1, 1).repeat(1, 4).double(), labels > 2)}


@given(st.integers(0, 9), st.integers(1, 5))
def test_what_is_split_is_joined(samples: int, parts: int) -> None:
    pieces = split(some(samples), parts)
    assert len(pieces) == parts
    torch.testing.assert_close(joined(pieces), some(samples))
    torch.testing.assert_close(rows(some(samples), slice(2)), some(min(2, samples)))


@given(st.integers(0, 9))
def test_buffers_are_like_the_targets(samples: int) -> None:
    like, buffers = some(samples), empty(some(0), samples)
    check_targets(buffers, samples)
    assert [b.dtype for b in buffers["boxes"]] == [torch.float64, torch.bool]
    assert buffers["boxes"][0].shape == (samples, 4)
    assert buffers.keys() == like.keys()


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["cat", "dog"], "hold a str; give tensors"),
        (torch.zeros(3), "shape \\[3\\] for 2 samples"),
        ((torch.zeros(2), torch.zeros(())), "shape \\[\\] for 2 samples"),
    ],
)
def test_other_targets_are_refused(targets: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_targets(targets, 2)

"""Samples taken from values and joined again: the values, their voxels, and their gradients."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, strategies as st

from sparsepipe.engine.layers import Convolution, ConvolutionTranspose, GlobalMaxPooling, MaxPooling
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.runtime.values import (
    Value,
    as_leaves,
    backward_through,
    features_of,
    join_samples,
    leaf_gradients,
    take_samples,
)
from tests.sparsepipe.clouds import random_tensor


def at_all_strides() -> tuple[SparseTensor, ...]:
    """Four samples, of which the second and the last are empty, at strides 1, 2, 4 and 0."""
    fine = random_tensor(3)
    middle = MaxPooling()(fine)
    coarse = MaxPooling()(middle)
    return fine, middle, coarse, GlobalMaxPooling()(coarse)


@given(cuts=st.lists(st.integers(1, 3), unique=True).map(sorted))
def test_joined_parts_are_the_whole(cuts: list[int]) -> None:
    values: tuple[Value, ...] = (*at_all_strides(), torch.randn(4, 3, 2, dtype=torch.float64))
    bounds = [0, *cuts, 4]
    parts = [take_samples(values, range(a, b)) for a, b in pairwise(bounds)]
    joined = join_samples(parts)
    assert len(joined) == len(values)
    for whole, again in zip(values, joined, strict=True):
        assert torch.equal(features_of(whole), features_of(again))
        if isinstance(whole, SparseTensor):
            assert isinstance(again, SparseTensor)
            assert torch.equal(whole.keys, again.keys)
            assert again.batch_size == 4


def test_a_taken_sample_is_what_it_is_alone() -> None:
    fine, middle, coarse, pooled = take_samples(at_all_strides(), range(2, 3))
    whole = random_tensor(3)
    rows = whole.coordinates[:, 0] == 2
    alone = SparseTensor(whole.features[rows], whole.coordinates[rows] - torch.tensor([2, 0, 0, 0]))
    assert isinstance(fine, SparseTensor)
    assert isinstance(coarse, SparseTensor)
    assert torch.equal(fine.keys, alone.keys)
    expected = MaxPooling()(MaxPooling()(alone))
    assert torch.equal(coarse.keys, expected.keys)
    assert torch.equal(coarse.features, expected.features)
    assert torch.equal(features_of(pooled), GlobalMaxPooling()(expected).features)
    assert isinstance(middle, SparseTensor)
    assert middle.maps is fine.maps is coarse.maps


def test_values_are_taken_sorted() -> None:
    """So that they can be sent, and that targets are told by the coordinates of what was taken."""
    whole = random_tensor(3)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    mixed = SparseTensor(whole.features[order], whole.coordinates[order], batch_size=4)
    parts = [take_samples([mixed, MaxPooling()(mixed)], range(a, b)) for a, b in ((0, 1), (1, 4))]
    for ours, theirs in zip(join_samples(parts), (whole, MaxPooling()(whole)), strict=True):
        assert isinstance(ours, SparseTensor)
        assert torch.equal(ours.features, theirs.features)
        assert torch.equal(ours.coordinates, theirs.coordinates)
    (again,) = join_samples([[mixed], [mixed]])
    assert isinstance(again, SparseTensor)
    assert torch.equal(again.features, whole.features.repeat(2, 1))


def test_layers_do_not_see_that_a_batch_was_taken_apart() -> None:
    torch.manual_seed(3)
    layer, back = Convolution(3, 4, 2, stride=2).double(), ConvolutionTranspose(4, 3, 2, 2).double()
    tensor = random_tensor(3)
    parts = [back(layer(take_samples([tensor], range(i, i + 1))[0])) for i in range(4)]
    (joined,) = join_samples([[part] for part in parts])
    assert torch.allclose(features_of(joined), back(layer(tensor)).features, rtol=1e-12)


def test_gradients_pass_through_taking_and_joining() -> None:
    (leaf,) = as_leaves([random_tensor(3)])
    parts = [take_samples([leaf], samples) for samples in (range(0, 1), range(1, 4))]
    (joined,) = join_samples(parts)
    weights = torch.randn_like(features_of(joined))
    backward_through([joined], [weights])
    (gradient,) = leaf_gradients([leaf])
    assert isinstance(gradient, SparseTensor)
    assert torch.equal(gradient.features, weights)


def test_a_value_without_a_gradient_gets_zeros() -> None:
    used, unused = as_leaves([random_tensor(3), torch.ones(4, 2)])
    backward_through([used, unused], [features_of(used).detach(), None])
    assert torch.equal(features_of(leaf_gradients([used, unused])[1]), torch.zeros(4, 2))


def test_a_value_that_only_passes_by_hands_its_gradient_back() -> None:
    (leaf,) = as_leaves([random_tensor(3)])
    backward_through([leaf, MaxPooling()(leaf)], [features_of(leaf).detach(), None])
    assert torch.equal(features_of(leaf_gradients([leaf])[0]), features_of(leaf).detach())


@pytest.mark.parametrize("samples", [range(0), range(2, 2), range(3, 5)])
def test_samples_that_are_not_there_are_refused(samples: range) -> None:
    with pytest.raises(ValueError, match="samples"):
        take_samples([random_tensor(3)], samples)


def test_values_of_different_clouds_are_refused() -> None:
    with pytest.raises(ValueError, match="share"):
        take_samples([random_tensor(3), random_tensor(3)], range(0, 1))

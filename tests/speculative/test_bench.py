"""The benchmark's peers decide as verifiers should, and its rows say what they are."""

import pytest
import torch

from speculative import bench, bench as peers

pytest.importorskip("transformers")


def test_every_method_has_a_row_with_its_floor() -> None:
    (case,) = bench.cases([500], [2], [3], ["float32"], "cpu", 1)
    rows = bench.measure(case, repetitions=2)
    assert [row.method for row in rows] == list(bench.METHODS)
    assert all(row.call_s.median > 0 and row.graph_s is None for row in rows)
    assert all(0 <= row.acceptance <= 1 for row in rows)
    assert [row.floor_bytes for row in rows] == [3 * 500 * 4 * n for n in (5, 5, 5, 2, 2)]


def test_the_peers_accept_what_is_certain_and_reject_what_is_impossible() -> None:
    target = torch.full((1, 3, 4), -torch.inf)
    target[0, [0, 1, 2], [1, 2, 3]] = 0.0
    draft = target[:, :2].clone()
    draft[0, 1, 0] = 0.0
    for tokens, accepted in ((torch.tensor([[1, 2]]), 2), (torch.tensor([[1, 0]]), 1)):
        for peer in (peers.transformers_region(), peers.two_softmaxes):
            found, following = peer(target, draft, tokens)
            assert int(found) == accepted
            assert int(following) == accepted + 1


def test_drafts_are_accepted_about_as_often_as_promised() -> None:
    (case,) = bench.cases([2000], [4], [64], ["float32"], "cpu", 1)
    target, draft, _ = bench.inputs(case, 0)
    overlap = target[:, :-1].softmax(-1).minimum(draft.softmax(-1)).sum(-1).mean()
    assert 0.6 < float(overlap) < 0.8


def test_a_replay_that_decides_otherwise_is_seen() -> None:
    (case,) = bench.cases([500], [2], [3], ["float32"], "cpu", 1)
    given = [bench.inputs(case, seed) for seed in range(2)]
    call = bench._call("exact", case)
    captured = [call(one, seed) for seed, one in enumerate(given)]
    assert bench._decides_as(captured, call, given)
    assert not bench._decides_as(captured[::-1], call, given)

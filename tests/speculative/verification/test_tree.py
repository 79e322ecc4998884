"""Trees of draft tokens are verified as a recursion in float64 does, and follow the target."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from speculative.experiments.chi_square import N, TableModel, V, p_value_of
from speculative.verification import philox, reference
from speculative.verification.filters import Filters
from speculative.verification.rules import EXACT, Block, Coupled, Exact
from speculative.verification.status import DRAFT_LOGITS, DRAFT_TOKEN, TARGET_LOGITS
from speculative.verification.tree import depths, path, verify_tree
from speculative.verification.verify import sample, verify
from systems.schema import InputError

Float = npt.NDArray[np.float64]
TREES = {
    "chain": [-1, 0, 1],
    "several guesses": [-1, -1, -1],
    "two by two": [-1, -1, 0, 0, 1, 1],
    "lopsided": [-1, 0, 0, -1, 1, 3],
}


def drafted(parents: Sequence[int], batch: int, vocabulary: int, seed: int) -> list[Tensor]:
    """Random logits of target and draft, and tokens that were sampled from the draft's."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, len(parents) + 1, vocabulary)
    target, draft = (1.5 * torch.randn(shape, generator=generator) for _ in range(2))
    rows = draft[:, [parent + 1 for parent in parents]].softmax(-1)
    tokens = rows.flatten(0, 1).multinomial(1, generator=generator).view(batch, -1)
    return [target, draft, tokens]


def recursion(
    p: Float, q: Float, tokens: Sequence[int], parents: Sequence[int], u: Float
) -> tuple[int, int, float]:
    """SpecInfer's algorithm 2 for one sequence, as it is written: the last accepted node, the next
    token, and how near the nearest decision was to another one."""
    node, margin = -1, np.inf
    while True:
        left = p[node + 1]
        accepted = None
        for child in (i for i, parent in enumerate(parents) if parent == node):
            ratio = left[tokens[child]] / q[node + 1, tokens[child]]
            margin = min(margin, abs(u[child] - ratio))
            if u[child] < ratio:
                accepted = child
                break
            left = np.maximum(left - q[node + 1], 0)
            left = left / left.sum()
        if accepted is None:
            token, race = reference.race_winner(left, u[len(parents) :])
            return node, token, min(margin, race)
        node = accepted


@pytest.mark.parametrize("parents", TREES.values(), ids=TREES.keys())
def test_decisions_are_those_of_the_recursion(parents: list[int]) -> None:
    batch, vocabulary = 600, 60
    target, draft, tokens = drafted(parents, batch, vocabulary, seed=5)
    numbers = len(parents) + vocabulary + philox.groups(vocabulary)
    u = torch.rand(batch, numbers, generator=torch.Generator().manual_seed(6))
    ours = verify_tree(target, draft, tokens, parents, temperature=0.8, uniforms=u)
    p, q = ((x.double() / 0.8).softmax(-1).numpy() for x in (target, draft))
    near = 0
    for b in range(batch):
        node, token, margin = recursion(
            p[b], q[b], tokens[b].tolist(), parents, u[b].double().numpy()
        )
        near += margin < 1e-5
        assert margin < 1e-5 or (int(ours.node[b]), int(ours.next_token[b])) == (node, token)
    assert near < 10
    assert len(ours.node.unique()) == len(parents) + 1  # every node was the last one once


@pytest.mark.parametrize("seeds", [torch.arange(40) + 3, 11], ids=["each its own", "one"])
def test_a_chain_is_verified_as_without_a_tree(seeds: Tensor | int) -> None:
    """One draft token: with more, the two number their acceptances otherwise."""
    target, draft, tokens = drafted([-1], 40, 5000, seed=1)
    chain = verify(target, draft[:, :1].contiguous(), tokens, seed=seeds, offset=4)
    tree = verify_tree(target, draft, tokens, [-1], seed=seeds, offset=4)
    assert torch.equal(tree.node + 1, chain.accepted)
    assert torch.equal(tree.next_token, chain.next_token)


def outputs(parents: list[int], target: TableModel, draft: TableModel, *, renew: bool) -> Tensor:
    """N outputs of three tokens of decoding with a tree of two levels.

    `renew`: whether children are sampled independently, as they should be, or the second child of
    a node is the first one's likeliest rival.
    """
    generator = torch.Generator().manual_seed(17)
    level = depths(parents)

    def draw(logits: Tensor) -> Tensor:
        return logits.softmax(-1).multinomial(1, generator=generator)[:, 0]

    tokens = torch.zeros(N, len(parents), dtype=torch.int64)
    rows: dict[str, list[Tensor]] = {"target": [], "draft": []}
    models = {"target": target, "draft": draft}
    for node in range(-1, len(parents)):
        nodes = path(node, parents)
        prefix = torch.zeros(N, 2, dtype=torch.int64)
        prefix[:, : len(nodes)] = tokens[:, nodes]
        for name, model in models.items():
            rows[name].append(model.rows(prefix)[:, len(nodes)])
        last = rows["draft"][-1]
        for child in (i for i, parent in enumerate(parents) if parent == node):
            tokens[:, child] = draw(last)
            if not renew and level[child] == 1 and child > 0:
                tokens[:, child] = last.argmax(-1)
    z, y = (torch.stack(rows[name], 1) for name in models)
    u = torch.rand(N, len(parents) + V + philox.groups(V), generator=generator)
    done = verify_tree(z, y, tokens, parents, uniforms=u)
    assert not bool(done.status.any())
    out = torch.zeros(N, 3, dtype=torch.int64)
    for node in range(-1, len(parents)):
        nodes = path(node, parents)
        ended = done.node == node
        out[ended, : len(nodes)] = tokens[ended][:, nodes]
        out[ended, len(nodes)] = done.next_token[ended]
        for t in range(len(nodes) + 1, 3):  # what a rejection cut short
            out[ended, t] = draw(target.rows(out[:, :2])[:, t])[ended]
    return out


TWO_LEVELS = [-1, -1, 0, 0, 1]


def test_outputs_follow_the_target() -> None:
    target, draft = TableModel(2), TableModel(102)
    assert p_value_of(outputs(TWO_LEVELS, target, draft, renew=True), target) > 1e-3


def test_children_that_depend_on_each_other_are_caught() -> None:
    target, draft = TableModel(1), TableModel(101)
    assert p_value_of(outputs(TWO_LEVELS, target, draft, renew=False), target) < 1e-6


def test_more_children_are_accepted_more_often() -> None:
    """And the first of two as often as an only one."""
    target, draft, tokens = drafted([-1, -1], 2_000, 30, seed=9)
    two = verify_tree(target, draft, tokens, [-1, -1], seed=2).node
    one = verify_tree(target[:, :2], draft[:, :2], tokens[:, :1], [-1], seed=2).node
    assert torch.equal(two == 0, one == 0)
    assert float((two == 1).float().mean()) > 0.05


@pytest.mark.parametrize("parents", TREES.values(), ids=TREES.keys())
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_target_s_own_tokens_are_emitted(parents: list[int], temperature: float) -> None:
    """Coupled and greedy trees emit what the target alone takes, whatever is in the tree."""
    batch, vocabulary, seeds = 60, 8, torch.arange(60)
    target, _, tokens = drafted(parents, batch, vocabulary, seed=3)
    done = verify_tree(
        target, None, tokens, parents, rule=Coupled(), temperature=temperature, seed=seeds, offset=5
    )
    assert done.node.max() >= 0
    for b in range(batch):
        nodes = [-1, *path(int(done.node[b]), parents)]
        emitted = [*tokens[b, nodes[1:]].tolist(), int(done.next_token[b])]
        for t, node in enumerate(nodes):
            alone = sample(
                target[b : b + 1, node + 1].contiguous(),
                temperature=temperature,
                seed=seeds[b : b + 1],
                offset=5 + t,
                stream=philox.COUPLED,
            )
            assert int(alone) == emitted[t]
        children = [i for i, parent in enumerate(parents) if parent == nodes[-1]]
        assert emitted[-1] not in tokens[b, children].tolist()


@pytest.mark.parametrize("rule", [EXACT, Coupled()], ids=lambda rule: rule.name)
def test_filters_hold_as_logits_that_are_left_out(rule: Exact | Coupled) -> None:
    """With a number for all sequences, and one for each."""
    parents = TREES["two by two"]
    target, draft, _ = drafted(parents, 50, 40, seed=8)
    top = torch.arange(50) % 5 + 1
    for k in (torch.full((50,), 3), top):
        masked = []
        for logits in (target, draft):
            kth = logits.sort(-1, descending=True).values.gather(
                -1, (k - 1)[:, None, None].expand(-1, len(parents) + 1, 1)
            )
            masked.append(logits.masked_fill(logits < kth, -torch.inf))
        rows = masked[1][:, [parent + 1 for parent in parents]].softmax(-1)
        sampled = rows.flatten(0, 1).multinomial(1).view(50, -1)
        theirs = verify_tree(masked[0], masked[1], sampled, parents, rule=rule, seed=4)
        filters = Filters(top_k=3 if k is not top else top)
        ours = verify_tree(target, draft, sampled, parents, rule=rule, filters=filters, seed=4)
        assert torch.equal(torch.stack(ours), torch.stack(theirs))


@given(st.data())
def test_a_path_leads_from_the_text_to_its_node(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    parents = [data.draw(st.integers(-1, node - 1)) for node in range(count)]
    for node, depth in enumerate(depths(parents)):
        nodes = path(node, parents)
        assert len(nodes) == depth
        assert nodes[-1] == node
        assert [parents[i] for i in nodes] == [-1, *nodes[:-1]]
    assert path(-1, parents) == []


def test_faults_are_reported_where_they_are_reached() -> None:
    parents = [-1, 0]
    target, draft, tokens = drafted(parents, 5, 12, seed=1)
    target[1, 0, 3] = torch.nan
    draft[2, 0, 3] = torch.inf
    tokens[3, 0] = 12
    target[4, 2] = draft[4, 1] = torch.nan  # reached only if the first token is accepted
    target[0], target[4, :2] = draft[0], draft[4, :2]
    target[4, 1] = 0
    done = verify_tree(target, draft, tokens, parents, seed=1)
    assert done.status.tolist() == [0, TARGET_LOGITS, DRAFT_LOGITS, DRAFT_TOKEN, DRAFT_LOGITS]
    assert done.node.tolist() == [1, -1, -1, -1, 0]
    assert (done.next_token >= 0).tolist() == [True, False, False, False, False]


def test_what_does_not_fit_is_refused() -> None:
    target, draft, tokens = drafted([-1, 0], 2, 5, seed=1)
    with pytest.raises(InputError, match=r"parents\[1\] is 1: a parent comes before"):
        verify_tree(target, draft, tokens, [-1, 1])
    with pytest.raises(InputError, match=r"do not fit a tree of 1 nodes"):
        verify_tree(target, draft, tokens, [-1])
    with pytest.raises(InputError, match="by Exact"):
        verify_tree(target, draft, tokens, [-1, 0], rule=Block())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="draft_logits None"):
        verify_tree(target, None, tokens, [-1, 0], rule=EXACT)
    with pytest.raises(InputError, match="temperature -1"):
        verify_tree(target, draft, tokens, [-1, 0], temperature=-1)
    with pytest.raises(InputError, match=r"draft_tokens: torch.int32 \[2, 2\] does not fit"):
        verify_tree(target, draft, tokens.int(), [-1, 0])
    with pytest.raises(InputError, match=r"uniforms: .* \[2, 5\] does not fit; give .* \[2, 8\]"):
        verify_tree(target, draft, tokens, [-1, 0], uniforms=torch.rand(2, 5))
    with pytest.raises(InputError, match="offset -1: give 0 to"):
        verify_tree(target, draft, tokens, [-1, 0], offset=-1)
    with pytest.raises(InputError, match=r"seed 0.5: give an integer"):
        verify_tree(target, draft, tokens, [-1, 0], seed=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", [Exact(), Coupled()])
def test_a_temperature_near_0_is_almost_greedy(rule: Exact | Coupled) -> None:
    target, draft, tokens = drafted([-1, 0], 20, 9, seed=4)
    case = 30 * target, 30 * draft, tokens, [-1, 0]
    cold = verify_tree(*case, rule=rule, seed=3, temperature=1.2e-38)
    likeliest = target.gather(1, (cold.node + 1)[:, None, None].expand(-1, 1, 9))[:, 0].argmax(-1)
    assert cold.status.tolist() == [0] * 20
    assert cold.next_token.tolist() == likeliest.tolist()

"""Top-k, top-p and min-p in verification: what is kept, and that it decides as masked logits do."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from speculative.experiments.agreement import (
    RULES,
    Case,
    differences,
    drafted,
    filters_at,
    rows,
    with_operators,
)
from speculative.experiments.chi_square import GAMMA, N, TableModel, outputs, p_value_of
from speculative.verification import cuts, philox, reference_filters
from speculative.verification.filters import Filters
from speculative.verification.rules import EXACT, Block, Coupled, Rule
from speculative.verification.verify import Verification, sample, verify
from systems.schema import InputError
from tests.speculative.verification.test_verify import both

Decide = Callable[..., Verification]
INF, NAN = torch.inf, torch.nan
EXACT_RULES = (EXACT, Block(), Coupled())
MIXED = Filters(
    top_k=torch.tensor([0, 5, 50, 0, 3, 1, 7, 0]),
    top_p=torch.tensor([0.9, 1.0, 0.7, 1.0, 0.5, 1.0, 1.0, 1.0]),
    min_p=torch.tensor([0.0, 0.0, 0.0, 0.02, 0.01, 0.0, 0.3, 0.0]),
)
"""Filters of eight sequences: each alone, together, and none."""


def masked(logits: Tensor, filters: Filters, temperature: float = 1.0) -> Tensor:
    """Logits [B, rows, V] with -inf where the reference, which sorts, keeps no token."""
    found = logits.clone()
    for b, of_row in enumerate(logits):
        limits = [float(x) for x in filters_at(filters, b).numbers]
        for t, row in enumerate(of_row):
            kept = reference_filters.kept(row.double().numpy() / temperature, *limits)
            found[b, t, torch.from_numpy(~kept)] = -INF
    return found


def filtered_draft(case: Case, filters: Filters, temperature: float) -> Case:
    """The same logits with tokens that are sampled from the filtered draft."""
    target, draft, _ = case
    assert draft is not None
    weights = (masked(draft, filters, temperature).double() / temperature).softmax(-1)
    generator = torch.Generator().manual_seed(1)
    tokens = weights.flatten(0, 1).multinomial(1, generator=generator).view(draft.shape[:2])
    return target, draft, tokens


def test_the_example_of_the_documentation() -> None:
    row = np.full(8, -50.0)
    row[[7, 2, 4, 0]] = np.log([0.50, 0.30, 0.15, 0.05])
    for limits, count in (((3, 1, 0), 3), ((3, 0.9, 0), 3), ((3, 0.8, 0), 2), ((3, 1, 0.5), 2)):
        kept = reference_filters.kept(row, *limits)
        assert kept[[7, 2, 4, 0]].tolist() == [place < count for place in range(4)]


def test_the_reference_keeps_what_transformers_keeps() -> None:
    """Where no logits are equal: transformers keeps all ties of top-k, and other ones of top-p."""
    logits = pytest.importorskip("transformers.generation.logits_process")
    warpers = [
        logits.TopKLogitsWarper(40),
        logits.TopPLogitsWarper(0.8),
        logits.MinPLogitsWarper(0.03),
    ]
    for seed in range(20):
        z = torch.randn(1, 500, generator=torch.Generator().manual_seed(seed)).double() * 2
        scores = z
        for warper in warpers:
            scores = warper(None, scores)
        kept = reference_filters.kept(z[0].numpy(), 40, 0.8, 0.03)
        assert kept.tolist() == (scores[0] > -INF).tolist()


@settings(max_examples=200, deadline=None)
@given(
    z=st.lists(st.sampled_from([-INF, -4.0, -1.0, -0.0, 0.0, 0.5, 3.0]), min_size=1, max_size=12),
    top_k=st.integers(0, 13),
    top_p=st.floats(1 / 64, 1, width=32),
    min_p=st.floats(0, 1, width=32),
    temperature=st.sampled_from([0.3, 1.0, 4.0]),
)
def test_operators_cut_ties_as_the_reference(
    z: list[float], top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    row = np.array(z)
    limits = torch.tensor([[float(top_k), top_p, min_p]])
    heat = torch.full((1, 1), temperature)
    found = cuts.kept(torch.tensor(z).view(1, 1, -1), heat, limits)[0, 0].tolist()
    near = (1.0, 1 - reference_filters.ROUNDING, 1 + reference_filters.ROUNDING)
    expected = [
        reference_filters.kept(
            row / np.float32(temperature), top_k, min(top_p * s, 1), min_p * s
        ).tolist()
        for s in near
    ]
    assert found in expected


@both
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [(7, torch.float32), (300, torch.bfloat16), (300, torch.float16), (20_011, torch.float32)],
)
def test_decisions_are_the_reference_s(
    decide: Decide, rule: Rule, vocabulary: int, dtype: torch.dtype
) -> None:
    """bfloat16 has many equal logits."""
    target, draft, tokens = drafted(8, 3, vocabulary, seed=vocabulary)
    case = filtered_draft((target.to(dtype), draft.to(dtype), tokens), MIXED, 0.8)
    lengths = torch.tensor([3, 3, 3, 3, 3, 3, 3, 2])
    options = {"rule": rule, "lengths": lengths, "temperature": 0.8, "filters": MIXED}
    wrong, ties = differences(case, decide, 1, **options)
    assert wrong == 0
    assert ties <= 1


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0, 12.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_rows_are_cut_where_the_reference_cuts(
    top_p: float, spread: float, dtype: torch.dtype
) -> None:
    """The kernel looks for the cut near where a sample of the row has it, which may be wrong: the
    last row has what the sample does not see."""
    target, draft, tokens = drafted(4, 1, 20_011, seed=9, spread=spread)
    target[3, 0, 7], draft[3, 0, 7] = 6 * spread, 6 * spread
    filters = Filters(top_p=top_p)
    case = filtered_draft((target.to(dtype), draft.to(dtype), tokens), filters, 1.0)
    wrong, _ = differences(case, verify, 1, filters=filters)
    assert wrong == 0


@both
@pytest.mark.parametrize("rule", RULES)
def test_filters_decide_as_masked_logits_do(decide: Decide, rule: Rule) -> None:
    """The draft's rows too, or as they are; also a draft whose tokens were given."""
    case = drafted(8, 3, 700, seed=2)
    target, draft, tokens = filtered_draft(case, MIXED, 0.9)
    assert draft is not None
    decide = partial(decide, rule=rule, temperature=0.9, seed=5)
    of_target = masked(target, MIXED, 0.9)
    both_masked = rows(decide(of_target, masked(draft, MIXED, 0.9), tokens))
    assert rows(decide(target, draft, tokens, filters=MIXED)) == both_masked
    alone = Filters(top_k=MIXED.top_k, top_p=MIXED.top_p, min_p=MIXED.min_p, of_draft=False)
    assert rows(decide(target, draft, case[2], filters=alone)) == rows(
        decide(of_target, draft, case[2])
    )
    if rule in EXACT_RULES:
        given = rows(decide(of_target, None, case[2]))
        assert rows(decide(target, None, case[2], filters=MIXED)) == given


@both
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_adversarial_logits(decide: Decide, data: st.DataObject) -> None:
    """Ties, excluded tokens, equal and one-hot rows, ragged lengths, greedy rows."""
    gamma, vocabulary = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    least = torch.finfo(torch.float32).min  # as masks of transformers have it
    values = st.sampled_from([-INF, least, -50.0, -1.0, 0.0, 0.5, 3.0, 80.0])
    row = st.lists(values, min_size=vocabulary, max_size=vocabulary)
    target, draft = (torch.tensor([[data.draw(row) for _ in range(n)]]) for n in (gamma + 1, gamma))
    if data.draw(st.booleans()):
        draft = target[:, :gamma].clone()
    tokens = torch.tensor([[data.draw(st.integers(-1, vocabulary)) for _ in range(gamma)]])
    filters = Filters(
        top_k=data.draw(st.integers(0, vocabulary + 1)),
        top_p=data.draw(st.sampled_from([0.1, 0.45, 0.77, 1.0])),
        min_p=data.draw(st.sampled_from([0.0, 0.3, 1.0])),
        of_draft=data.draw(st.booleans()),
    )
    wrong, _ = differences(
        (target, draft, tokens),
        decide,
        data.draw(st.integers(0, 2**32)),
        rule=data.draw(st.sampled_from(RULES)),
        lengths=torch.tensor([data.draw(st.integers(0, gamma))]),
        temperature=data.draw(st.sampled_from([0.0, 0.7])),
        filters=filters,
    )
    assert wrong == 0


@both
def test_faults_are_seen_under_filters(decide: Decide) -> None:
    """Of sequences: sound, target's fault, draft's, nothing finite, a token outside."""
    target, draft, _ = drafted(5, 2, 300, seed=1)
    tokens = target[:, :2].argmax(-1)
    draft = target[:, :2].clone()
    target[1, 1, 9], draft[2, 1, 299], target[3, 0] = NAN, INF, -INF
    tokens[4, 1] = 300
    for limits in ({"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.5}, {"top_k": 300, "top_p": 0.99}):
        found = rows(decide(target, draft, tokens, filters=Filters(**limits), seed=1))
        assert [(n, fault) for n, _, fault in found] == [(2, 0), (1, 1), (1, 2), (0, 1), (1, 4)]


@pytest.mark.parametrize(
    ("rule", "filters"),
    [
        (EXACT, Filters(top_k=3, top_p=0.8)),
        (Block(), Filters(top_p=0.7)),
        (Coupled(), Filters(min_p=0.4)),
    ],
    ids=["exact", "block", "coupled"],
)
def test_outputs_follow_the_filtered_target(rule: Rule, filters: Filters) -> None:
    """The draft is sampled under the same filters. Tokens that are left out never occur."""
    target, draft = TableModel(2), TableModel(102)
    limits = [float(x) for x in filters.numbers]
    for model in (target, draft):
        for i, table in enumerate(model.tables):
            flat = table.reshape(-1, 4)
            kept = [reference_filters.kept(row.double().numpy(), *limits) for row in flat]
            model.tables[i] = flat.where(torch.tensor(np.array(kept)), -INF).view_as(table)
    plain = TableModel(2), TableModel(102)

    def decide(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        prefixes = tokens[:, :GAMMA]
        rows_of = plain[0].rows(prefixes), plain[1].rows(prefixes)[:, :GAMMA]
        seeds = torch.arange(N)
        decided = verify(*rows_of, tokens, rule=rule, filters=filters, seed=seeds)
        assert not bool(decided.status.any())
        return decided.accepted, decided.next_token

    p = p_value_of(outputs(target, draft, decide, seed=4), target)
    print(f"{rule.name} {filters}: p = {p:.3f}")
    assert p > 1e-3


@both
def test_coupled_emits_what_the_filtered_target_takes_alone(decide: Decide) -> None:
    target, draft, tokens = drafted(8, 3, 4099, seed=3)
    seeds = torch.arange(8) + 5

    def taken(logits: Tensor, t: int) -> Tensor:
        return sample(logits[:, t], seed=seeds, offset=7 + t, filters=MIXED, stream=philox.COUPLED)

    alone = torch.stack([taken(target, t) for t in range(4)], 1)
    by_noise = torch.stack([taken(draft, t) for t in range(3)], 1)
    for guess in (tokens, by_noise):
        decided = decide(target, None, guess, rule=Coupled(), filters=MIXED, seed=seeds, offset=7)
        for b, (n, token, status) in enumerate(rows(decided)):
            assert status == 0
            assert [*guess[b, :n].tolist(), token] == alone[b, : n + 1].tolist()


@pytest.mark.parametrize("stream", [philox.DRAFT, philox.NEXT, philox.COUPLED])
def test_sampling_under_filters_is_that_of_masked_logits(stream: int) -> None:
    logits = drafted(8, 1, 5003, seed=4)[0][:, 0]
    found = sample(logits, temperature=0.7, filters=MIXED, seed=3, stream=stream)
    expected = masked(logits[:, None], MIXED, 0.7)[:, 0]
    assert found.tolist() == sample(expected, temperature=0.7, seed=3, stream=stream).tolist()


def test_numbers_out_of_range_in_tensors_count_as_the_nearest() -> None:
    target, draft, tokens = drafted(4, 2, 60, seed=5)
    odd = Filters(
        top_k=torch.tensor([-3, 1000, 0, 0]),
        top_p=torch.tensor([1.5, NAN, -1.0, 1.0]),
        min_p=torch.tensor([-1.0, NAN, 0.0, 7.0]),
    )
    heat = torch.full((4,), 0.9)
    plain = rows(verify(target, draft, tokens, temperature=heat, seed=torch.arange(4)))
    likeliest = rows(verify(target, draft, tokens, temperature=0.0, seed=torch.arange(4)))
    for decide in (verify, with_operators):
        found = rows(
            decide(target, draft, tokens, filters=odd, temperature=heat, seed=torch.arange(4))
        )
        assert found[:2] == plain[:2]
        assert [row[0] for row in found[2:]] <= [row[0] for row in likeliest[2:]]
        for n, token, status in (found[2], found[3]):
            b = 2 if (n, token, status) == found[2] else 3
            assert (token, status) == (int(target[b, n].argmax()), 0)


ONE = drafted(2, 1, 8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Filters(top_k=-1), "top_k -1: give 1 or more"),
        (
            lambda: Filters(top_k=1.5),  # type: ignore[arg-type]
            "top_k 1.5: give 1 or more",
        ),
        (lambda: Filters(top_p=0.0), "top_p 0: give more than 0"),
        (lambda: Filters(top_p=NAN), "top_p nan: give more than 0"),
        (
            lambda: Filters(top_p="all"),  # type: ignore[arg-type]
            "top_p 'all': give a number",
        ),
        (lambda: Filters(min_p=1.1), "min_p 1.1: give 0 to 1"),
        (lambda: Filters(min_p=NAN), "min_p nan: give 0 to 1"),
        (
            lambda: verify(*ONE, filters={"top_k": 3}),  # type: ignore[arg-type]
            "filters {'top_k': 3}: give Filters(",
        ),
        (
            lambda: verify(*ONE, filters=Filters(top_k=torch.ones(3))),
            "top_k: torch.float32 [3] does not fit; give torch.int64 [2]",
        ),
        (
            lambda: sample(ONE[1][:, 0], filters=Filters(top_p=torch.ones(3))),
            "top_p: torch.float32 [3] does not fit; give torch.float32 [2]",
        ),
    ],
)
def test_bad_filters_are_one_line(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError) as refused:
        make()
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)

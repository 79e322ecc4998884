"""Which tokens may be sampled: exactly k, the fewest for p, and the lower number among equals."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from speculative.decoding.sampling import Sampling
from systems.schema import InputError

INF = float("inf")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def kept(logits: torch.Tensor, **options: Any) -> list[list[int]]:
    """Tokens of every row that are left; their logits are what they were."""
    restricted = Sampling(**options).limit(logits[:, None])[:, 0]
    left = restricted > -INF
    assert torch.equal(restricted[left], logits[left])
    return [row.nonzero()[:, 0].tolist() for row in left]


def ordered(row: np.ndarray) -> list[int]:
    """Likelier tokens first, lower numbers first among equals."""
    return sorted(range(len(row)), key=lambda token: (-row[token], token))


@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from(DTYPES))
@settings(deadline=None, max_examples=60)
def test_exactly_k_tokens_are_kept_the_lower_of_equals(
    seed: int, k: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-2, 3, (3, 9), generator=generator).to(dtype)  # many ties
    logits[0, 0] = -INF
    expected = [sorted(ordered(row)[:k]) for row in logits.double().numpy()]
    expected[0] = [token for token in expected[0] if token]
    assert kept(logits, top_k=k) == expected


def test_one_token_is_argmax_wherever_it_is_tied() -> None:
    torch.manual_seed(0)
    logits = torch.randn(64, 300).to(torch.bfloat16)
    assert ((logits == logits.amax(-1, keepdim=True)).sum(-1) > 1).any()
    assert kept(logits, top_k=1) == logits.argmax(-1)[:, None].tolist()
    assert kept(torch.zeros(2, 7), top_k=1) == [[0], [0]]
    assert kept(torch.zeros(2, 7), temperature=0, top_p=0.1) == [[0], [0]]


@given(st.integers(0, 10**6), st.floats(0.01, 1), st.floats(0.2, 5))
@settings(deadline=None, max_examples=60)
def test_the_fewest_tokens_with_that_probability_are_kept(
    seed: int, p: float, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-2, 3, (3, 9), generator=generator).float()
    found = kept(logits, top_p=p, temperature=temperature)
    for row, tokens in zip(logits.double().numpy(), found, strict=True):
        weights = np.exp((row - row.max()) / temperature)
        order = ordered(row)
        summed = np.cumsum(weights[order] / weights.sum())
        near = 1e-5  # of rounding: the sum may just reach p, or just not
        fewest, most = (1 + int((summed < p + d).sum()) for d in (-near, near))
        assert tokens == sorted(order[: len(tokens)])
        assert min(fewest, 9) <= len(tokens) <= min(most, 9)


def test_equal_tokens_share_no_more_than_p() -> None:
    assert kept(torch.zeros(1, 8), top_p=0.5) == [[0, 1, 2, 3]]
    assert kept(torch.zeros(1, 8), top_p=1e-9) == [[0]]
    assert kept(torch.zeros(1, 8), top_k=6, top_p=0.5) == [[0, 1, 2]]
    far = torch.tensor([[1e30, 0.0, -1e30]])
    assert kept(far, top_p=0.5, temperature=1e-30) == [[0]]


def test_min_p_keeps_a_share_of_the_likeliest() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 2.0, 0.0]])
    assert kept(logits, min_p=0.3) == [[0, 1, 3]]
    assert kept(logits, min_p=0.3, temperature=2) == [[0, 1, 2, 3]]
    assert kept(logits, min_p=0.3, temperature=2, top_k=2) == [[0, 1]]
    assert kept(logits, min_p=1.0) == [[0]]


@pytest.mark.parametrize(
    "options", [{"top_k": 2}, {"top_p": 0.5}, {"top_k": 2, "top_p": 0.5}, {"min_p": 0.5}]
)
def test_faults_stay_visible(options: dict[str, Any]) -> None:
    logits = torch.zeros(4, 1, 5)
    logits[0, 0, 3], logits[1, 0, 1], logits[2] = torch.nan, INF, -INF
    logits[3, 0, :2] = 1.0
    found = Sampling(**options).limit(logits)[:, 0]
    assert found[0].isnan().any()
    assert found[1, 1] == INF
    assert (found[2] == -INF).all()
    assert 0 < int((found[3] > -INF).sum()) < 5


def test_suppressed_tokens_are_no_candidates() -> None:
    logits = torch.tensor([[[5.0, 4, 3, 2], [5, 4, 3, 2]]])
    sampling = Sampling(top_k=2, suppressed=(0,), begin_suppressed=(1,))
    found = sampling.limit(sampling.suppress(logits, begins=True)) > -INF
    assert found.tolist() == [[[False, False, True, True], [False, True, True, False]]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature -1: give more than 0, or 0 for greedy decoding"),
        ({"temperature": float("nan")}, "temperature nan: give"),
        ({"temperature": INF}, "temperature inf: give"),
        ({"temperature": "1"}, "temperature '1': give a number"),
        ({"temperature": None}, "temperature None: give a number"),
        ({"top_k": -1}, "top_k -1: give 1 or more"),
        ({"top_k": 1.5}, "top_k 1.5: give 1 or more"),
        ({"top_k": float("nan")}, "top_k nan: give 1 or more"),
        ({"top_p": 0.0}, "top_p 0: give more"),
        ({"top_p": 1.01}, "top_p 1.01: give more"),
        ({"top_p": float("nan")}, "top_p nan: give more"),
        ({"top_p": "all"}, "top_p 'all': give a number"),
        ({"min_p": 1.5}, "min_p 1.5: give 0 to 1"),
        ({"suppressed": (3, -1)}, "suppressed: -1 is no token"),
        ({"suppressed": (1.5,)}, "suppressed: 1.5 is no token"),
        ({"suppressed": 5}, r"suppressed 5: give a sequence of tokens, such as \(5,\)"),
        ({"suppressed": "12"}, "suppressed '12': give a sequence"),
        ({"begin_suppressed": (None,)}, "begin_suppressed: None is no token"),
    ],
)
def test_bad_sampling(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("name", ["suppressed", "begin_suppressed"])
@pytest.mark.parametrize("token", [4, 50_257])
def test_tokens_outside_the_vocabulary_are_refused(name: str, token: int) -> None:
    sampling = Sampling(**{name: (3, token)})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"^{name}: token {token} is outside .* give 0 to 3$"):
        sampling.suppress(torch.zeros(1, 1, 4))

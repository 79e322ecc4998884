"""The calibrated method: its estimate, its decisions, its distance from the target."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from speculative.experiments.agreement import differences, drafted, rows, with_operators
from speculative.experiments.distance import distance
from speculative.verification import status
from speculative.verification.calibration import Observed, fit
from speculative.verification.reference import estimate
from speculative.verification.rules import EXACT, Calibrated, Sigmoid
from speculative.verification.verify import Verification, verify
from systems.schema import InputError
from tests.speculative.verification.test_verify import DTYPES, both

Verify = Callable[..., Verification]
CONSTANT = Calibrated(0.0, 1.0, -1.0)  # both models have the same normaliser
FREE = Calibrated(-0.2, 0.9, -0.8)
INF = torch.inf


def observed(seed: int, temperature: float = 1.0) -> Observed:
    seen = Observed(temperature)
    seen.add(*drafted(40, 8, 300, seed))
    return seen


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [CONSTANT, FREE])
@pytest.mark.parametrize(("vocabulary", "batch"), [(2, 64), (67, 64), (4099, 16), (51865, 4)])
def test_decisions_are_the_reference_s(
    decide: Verify, dtype: torch.dtype, rule: Calibrated, vocabulary: int, batch: int
) -> None:
    target, draft, tokens = drafted(batch, 3, vocabulary, seed=vocabulary)
    case = target.to(dtype), draft.to(dtype), tokens
    lengths = torch.arange(batch) % 4
    wrong, ties = differences(case, decide, 1, rule=rule, lengths=lengths, temperature=0.8)
    assert wrong == 0
    assert ties <= batch // 16


@given(st.data())
def test_adversarial_logits(data: st.DataObject) -> None:
    """Excluded tokens, equal and one-hot rows, ragged lengths."""
    gamma, vocabulary = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    values = st.sampled_from([-INF, -50.0, -1.0, 0.0, 0.5, 3.0, 80.0])
    row = st.lists(values, min_size=vocabulary, max_size=vocabulary)
    logits = [torch.tensor([[data.draw(row) for _ in range(n)]]) for n in (gamma + 1, gamma)]
    tokens = torch.tensor([[data.draw(st.integers(0, vocabulary - 1)) for _ in range(gamma)]])
    options = {
        "rule": data.draw(st.sampled_from([CONSTANT, FREE, Calibrated(1.0, 0.0, -0.5)])),
        "lengths": torch.tensor([data.draw(st.integers(0, gamma))]),
    }
    seed = data.draw(st.integers(0, 2**32))
    for decide in (verify, with_operators):
        assert differences((logits[0], logits[1], tokens), decide, seed, **options)[0] == 0


@both
def test_faults_of_the_rows_that_are_read_have_a_status(decide: Verify) -> None:
    target, draft, _ = drafted(6, 2, 50, seed=1)
    draft = target[:, :2].clone()
    tokens = torch.zeros(6, 2, dtype=torch.int64)
    target[1, 2, 7] = torch.nan  # after all are accepted
    target[2, 1, 0] = -INF  # rejected; a fault elsewhere in the row pair
    draft[2, 1, 9] = INF
    tokens[3, 0] = 50
    target[4, 0, 9] = torch.nan  # accepted unseen
    target[5, 2] = -INF
    found = rows(decide(target, draft, tokens, rule=CONSTANT, seed=1))
    assert [(n, fault) for n, _, fault in found] == [
        (2, 0),
        (2, status.TARGET_LOGITS),
        (1, status.DRAFT_LOGITS),
        (0, status.DRAFT_TOKEN),
        (2, 0),
        (2, status.TARGET_LOGITS),
    ]
    assert all((token == -1) == (fault != 0) for _, token, fault in found)


def test_the_distance_is_that_of_what_is_emitted() -> None:
    """In closed form and by sampling: acceptance, and the distribution of the next token."""
    target, draft, _ = drafted(1, 1, 5, seed=11, spread=1.5)
    n = 200_000
    tokens = draft[0].softmax(-1).multinomial(n, replacement=True, generator=_generator()).t()
    case = target.expand(n, -1, -1), draft.expand(n, -1, -1), tokens
    p = target[0, 0].double().softmax(-1)
    for rule in (EXACT, Sigmoid(alpha=-2.0, beta=1.0), Calibrated(0.4, 1.0, -1.0)):
        decided = verify(*case, rule=rule, seed=5)
        first = torch.where(decided.accepted > 0, tokens[:, 0], decided.next_token)
        emitted = torch.bincount(first, minlength=5) / n
        found = distance(target[0, :1], draft[0], rule=rule)
        share = float(decided.accepted.double().mean())
        assert share == pytest.approx(float(found.acceptance[0]), abs=0.005)
        apart = float((emitted - p).abs().sum() / 2)
        assert apart == pytest.approx(float(found.total_variation[0]), abs=0.005)
        if rule == EXACT:
            assert float(found.total_variation[0]) < 1e-12
        else:
            assert float(found.total_variation[0]) > 0.02


@given(st.integers(0, 1000), st.floats(-2, 2), st.floats(0.3, 1.2), st.floats(-1.2, -0.3))
def test_total_variation_is_what_is_accepted_too_often(
    seed: int, intercept: float, target_slope: float, draft_slope: float
) -> None:
    target, draft, _ = drafted(4, 1, 30, seed)
    z, y = target[:, 0].double(), draft[:, 0].double()
    p, q = z.softmax(-1), y.softmax(-1)
    rule = Calibrated(intercept, target_slope, draft_slope)
    over = torch.as_tensor(estimate(rule, z, y)) - (p / q).clamp(max=1)
    found = distance(z, y, rule=rule)
    np.testing.assert_allclose(found.total_variation, (q * over.clamp(min=0)).sum(-1), atol=1e-12)
    lost = distance(z, y).acceptance - found.acceptance
    np.testing.assert_allclose(lost, -(q * over).sum(-1), atol=1e-12)
    never_above = distance(z, y, rule=Calibrated(-60.0, target_slope, draft_slope))
    assert float(never_above.total_variation.max()) < 1e-12


def test_a_fit_finds_a_constant_gap_and_is_careful() -> None:
    generator = np.random.default_rng(0)
    z, y = generator.normal(0, 3, (2, 4000))
    found = fit(z, y, z - y + 1.25)
    assert found.parameters == pytest.approx([1.25, 1.0, -1.0], abs=0.05)
    noisy = z - y + generator.normal(0, 0.5, 4000)

    def over_and_under(caution: float) -> tuple[float, float]:
        apart = estimate(fit(z, y, noisy, caution=caution), z, y) - np.exp(np.minimum(noisy, 0))
        return float(np.maximum(apart, 0).mean()), float(np.maximum(-apart, 0).mean())

    careful, careless = over_and_under(16.0), over_and_under(1.0)
    assert careful[0] < careless[0]
    assert careful[1] > careless[1]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_calibrated_is_far_nearer_than_sigmoid_on_other_drafts(temperature: float) -> None:
    rule = observed(1, temperature).fit()
    target, draft, _ = drafted(40, 8, 300, seed=2)
    z, y = target[:, :8].flatten(0, 1), draft.flatten(0, 1)
    near = distance(z, y, temperature=temperature, rule=rule)
    far = distance(z, y, temperature=temperature, rule=Sigmoid())
    assert near.total_variation.mean() < far.total_variation.mean() / 5
    exact = distance(z, y, temperature=temperature).acceptance.mean()
    assert exact - 0.2 < near.acceptance.mean() < exact + 0.05


def test_bad_input() -> None:
    with pytest.raises(InputError, match="0 draft tokens"):
        Observed().fit()
    with pytest.raises(InputError, match="caution 0"):
        observed(1).fit(caution=0)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)

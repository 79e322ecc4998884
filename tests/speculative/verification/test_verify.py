"""Kernels and PyTorch operators against the reference: decisions, boundaries, faults."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from speculative.decoding.sampling import Sampling
from speculative.experiments import mutants
from speculative.experiments.agreement import (
    differences,
    drafted,
    rows,
    unlike_on_flat_rows,
    with_operators,
)
from speculative.verification import build, philox, pytorch, status
from speculative.verification.rules import EXACT, Block, Calibrated, Coupled, Rule, Sigmoid
from speculative.verification.verify import Verification, sample, verify
from systems.schema import InputError

Verify = Callable[..., Verification]
INF = torch.inf
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


both = pytest.mark.parametrize("decide", [verify, with_operators], ids=["kernels", "operators"])


def test_the_kernels_are_under_test() -> None:
    assert build.cpu_library() is not None


@both
@pytest.mark.parametrize("rule", [EXACT, Sigmoid()])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("vocabulary", "batch"), [(2, 64), (5, 64), (67, 64), (4099, 16), (51865, 4)]
)
def test_decisions_are_the_reference_s(
    decide: Verify, rule: Rule, dtype: torch.dtype, vocabulary: int, batch: int
) -> None:
    target, draft, tokens = drafted(batch, 3, vocabulary, seed=vocabulary)
    case = target.to(dtype), draft.to(dtype), tokens
    lengths = torch.arange(batch) % 4
    wrong, ties = differences(case, decide, 1, rule=rule, lengths=lengths, temperature=0.8)
    assert wrong == 0
    assert ties <= batch // 16


@both
@pytest.mark.parametrize("limits", [(-1e5, 1e5), (-1e3, 1e3), (-10.0, 10.0), (-0.5, 0.1)])
def test_sigmoid_of_any_limits_is_the_reference_s(
    decide: Verify, limits: tuple[float, float]
) -> None:
    case = drafted(32, 4, 1000, seed=5, spread=6.0)
    wrong, ties = differences(case, decide, 2, rule=Sigmoid(*limits))
    assert wrong == 0
    assert ties <= 2


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_adversarial_logits(data: st.DataObject) -> None:
    """Ties in the logits, excluded tokens, one-hot and equal rows, shifts, ragged lengths."""
    gamma, vocabulary = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    values = st.sampled_from([-INF, -1e30, -50.0, -1.0, 0.0, 0.5, 3.0, 80.0])
    row = st.lists(values, min_size=vocabulary, max_size=vocabulary)

    def logits(count: int) -> Tensor:
        return torch.tensor([data.draw(row) for _ in range(count)])[None]

    target, draft = logits(gamma + 1), logits(gamma)
    if data.draw(st.booleans()):
        draft = target[:, :gamma].clone()
    tokens = torch.tensor([[data.draw(st.integers(0, vocabulary - 1)) for _ in range(gamma)]])
    lengths = torch.tensor([data.draw(st.integers(0, gamma))])
    rule = data.draw(st.sampled_from([EXACT, Sigmoid()]))
    seed = data.draw(st.integers(0, 2**32))
    for decide in (verify, with_operators):
        options = {"rule": rule, "lengths": lengths}
        assert differences((target, draft, tokens), decide, seed, **options)[0] == 0


@both
def test_a_token_of_no_probability_is_rejected_even_at_0(decide: Verify) -> None:
    target = torch.tensor([[[0.0, -INF, 0.0], [0.0, 0.0, 0.0]]])
    draft, tokens = torch.zeros(1, 1, 3), torch.tensor([[1]])
    u = torch.zeros(1, 5)
    for rule in (EXACT, Sigmoid()):
        decided = decide(target, draft, tokens, rule=rule, uniforms=u)
        assert int(decided.accepted) == 0
        assert int(decided.next_token) in (0, 2)


@both
def test_no_residual_means_the_target(decide: Verify) -> None:
    """A draft above the target everywhere leaves sigmoid no residual."""
    target, draft = torch.full((1, 2, 4), -3e4), torch.full((1, 1, 4), 3e4)
    target[..., 2] = 2e4
    u = torch.tensor([[0.99, 0.3, 0.3, 0.3, 0.3, 0.3]])
    decided = decide(target, draft, torch.tensor([[0]]), rule=Sigmoid(), uniforms=u)
    assert rows(decided) == [(0, 2, 0)]


@both
def test_disjoint_and_one_hot_rows(decide: Verify) -> None:
    target = torch.full((1, 3, 6), -INF)
    draft = torch.full((1, 2, 6), -INF)
    target[0, [0, 1, 2], [1, 4, 5]] = 0.0
    draft[0, 0, 1] = draft[0, 1, 3] = 0.0
    decided = decide(target, draft, torch.tensor([[1, 3]]), seed=3)
    assert rows(decided) == [(1, 4, 0)]
    decided = decide(target, draft, torch.tensor([[1, 3]]), seed=3, lengths=torch.tensor([0]))
    assert rows(decided) == [(0, 1, 0)]


@both
@pytest.mark.parametrize("rule", [EXACT, Sigmoid()])
@pytest.mark.parametrize("bad", [torch.nan, INF])
def test_faults_have_a_status_and_no_token(decide: Verify, rule: Rule, bad: float) -> None:
    """Of sequences: sound, target's fault, draft's, token below and above, length, unseen fault."""
    target, draft, _ = drafted(8, 2, 50, seed=1)
    draft = target[:, :2].clone()  # accepted always
    tokens = torch.zeros(8, 2, dtype=torch.int64)
    target[1, 1, 0] = bad
    draft[2, 1, 0] = bad
    tokens[3, 0], tokens[4, 1] = -1, 50
    target[6, 2, 7] = bad
    target[7, 0] = -INF
    lengths = torch.tensor([2, 2, 2, 2, 2, 3, 1, 2])
    found = rows(decide(target, draft, tokens, rule=rule, lengths=lengths, seed=1))
    assert [(a, c) for a, _, c in found] == [
        (2, 0),
        (1, status.TARGET_LOGITS),
        (1, status.DRAFT_LOGITS),
        (0, status.DRAFT_TOKEN),
        (1, status.DRAFT_TOKEN),
        (0, status.LENGTH),
        (1, 0),
        (0, status.TARGET_LOGITS),
    ]
    assert all((token == -1) == (fault != 0) for _, token, fault in found)


@both
@pytest.mark.parametrize("rule", [EXACT, Block(), Coupled(), Sigmoid(), Calibrated(0.0, 1.0, -1.0)])
def test_a_temperature_in_a_tensor_that_cannot_be_has_a_status(decide: Verify, rule: Rule) -> None:
    heat = torch.tensor([1.0, torch.nan, -1.0, INF, 1e-40, 0.0, -INF, 2.0**-126])
    case = drafted(len(heat), 2, 50, seed=1)
    found = rows(decide(*case, rule=rule, temperature=heat, seed=1))
    wrong = [n in (1, 2, 3, 4, 6) for n in range(len(heat))]
    assert [status_ for _, _, status_ in found] == [bad * status.TEMPERATURE for bad in wrong]
    assert [token == -1 for _, token, _ in found] == wrong
    for stream in (philox.NEXT, philox.DRAFT, philox.COUPLED):
        tokens = sample(case[0][:, 0], temperature=heat, stream=stream)
        assert (tokens == -1).tolist() == wrong


@pytest.mark.parametrize("temperature", [1e-39, 1e-300, 1e39, 1e300, -1e-300])
def test_a_temperature_that_float32_does_not_hold_is_refused(temperature: float) -> None:
    case = drafted(1, 2, 50, seed=1)
    with pytest.raises(InputError, match=r"temperature .*: give more than 0, or 0 for greedy"):
        verify(*case, temperature=temperature)
    with pytest.raises(InputError, match=r"temperature .*: give more than 0, or 0 for greedy"):
        Sampling(temperature=temperature)


def test_a_half_precision_residual_is_caught() -> None:
    assert unlike_on_flat_rows(mutants.correct) == 0
    assert unlike_on_flat_rows(mutants.half_residual) > 0
    for decide in (verify, with_operators):
        assert (
            unlike_on_flat_rows(lambda *case, by=decide: by(*case[:3], uniforms=case[3])[:2]) == 0
        )


@both
def test_a_request_s_tokens_do_not_depend_on_its_batch(decide: Verify) -> None:
    target, draft, tokens = drafted(9, 3, 4099, seed=2)
    seeds, offsets = torch.arange(9) * 7 + 1, torch.arange(9) * 5
    together = rows(decide(target, draft, tokens, seed=seeds, offset=offsets))
    order = torch.tensor([8, 2, 5])
    some = decide(
        target[order], draft[order], tokens[order], seed=seeds[order], offset=offsets[order]
    )
    assert rows(some) == [together[i] for i in order]
    alone = decide(target[4:5], draft[4:5], tokens[4:5], seed=int(seeds[4]), offset=int(offsets[4]))
    assert rows(alone) == [together[4]]


@pytest.mark.parametrize("rule", [EXACT, Sigmoid()])
def test_threads_change_nothing(rule: Rule) -> None:
    case = drafted(2, 3, 51865, seed=3)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(rows(verify(*case, rule=rule, seed=1)))
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@both
@pytest.mark.parametrize("rule", [EXACT, Sigmoid()])
def test_strides_change_nothing_and_inputs_stay(decide: Verify, rule: Rule) -> None:
    target, draft, tokens = drafted(3, 2, 1003, seed=4)
    expected = rows(decide(target, draft, tokens, rule=rule, seed=5))
    wide = torch.full((5, 3, 2 * 1003), torch.nan)
    wide[1:4, :, ::2] = target
    rowwise = torch.full((2, 3, 1010), torch.nan)
    rowwise[..., 7:] = draft.transpose(0, 1)
    views = wide[1:4, :, ::2], rowwise[..., 7:].transpose(0, 1), tokens.t().contiguous().t()
    copies = [view.clone() for view in views]
    assert rows(decide(*views, rule=rule, seed=5)) == expected
    for view, copy in zip(views, copies, strict=True):
        assert torch.equal(view, copy)


def test_sampling_follows_the_softmax() -> None:
    logits = torch.tensor([1.0, -INF, 0.0, 2.0, -1.0]).expand(100_000, 5)
    counts = torch.bincount(sample(logits, temperature=1.3, seed=4, offset=9), minlength=5)
    expected = (logits[0] / 1.3).softmax(-1) * 100_000
    assert int(counts[1]) == 0
    keep = expected > 0
    assert float(((counts - expected)[keep] ** 2 / expected[keep]).sum()) < 20  # 3 degrees


def test_sampling_is_the_same_in_operators_and_marks_faults() -> None:
    logits = drafted(6, 1, 777, seed=1)[1][:, 0]
    logits[2, 5], logits[3] = torch.nan, -INF
    found = sample(logits, seed=8, offset=1, temperature=0.9)
    requests = philox.requests(6, 8, 1, logits.device)
    other = pytorch.sample(logits, None, requests, temperature=0.9, stream=philox.DRAFT)
    assert torch.equal(found, other)
    assert [int(token) == -1 for token in found] == [False, False, True, True, False, False]
    seeds, numbers, positions = requests
    u = philox.race_uniforms(seeds, numbers, positions, philox.DRAFT, 777)
    assert torch.equal(found, sample(logits, uniforms=u, temperature=0.9))


def test_torch_compile_keeps_the_operator() -> None:
    def step(target: Tensor, draft: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        scores = target.new_empty(target.shape[:2])
        decided = verify(target * 2, draft * 2, tokens, seed=3, log_probabilities=scores)
        plain = verify(target * 2, draft * 2, tokens, seed=3)
        return decided.accepted + plain.next_token, scores.nan_to_num()

    case = drafted(2, 3, 100, seed=6)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for found, by in zip(compiled(*case), step(*case), strict=True):
        assert torch.equal(found, by)
    options: tuple[object, ...] = (None, None, None, None, 3, 0, EXACT.code, [], 1.0, None)
    for scores in (None, torch.empty(2, 4)):
        arguments = (*case, *options, [], None, None, None, None, True, scores)
        torch.library.opcheck(torch.ops.speculative.verify.default, arguments)


ONE = drafted(1, 2, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rule": "exact"}, "rule 'exact': give Exact()"),
        ({"rule": Sigmoid}, "rule <class"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": None}, "temperature None: give a number"),
        ({"target_logits": ONE[0].numpy()}, "target_logits is a ndarray; give a tensor"),
        ({"draft_tokens": [[1, 2]]}, "draft_tokens is a list; give a tensor"),
        ({"lengths": [1]}, "lengths is a list; give a tensor"),
        ({"seed": 1.5}, "seed 1.5: give an integer"),
        ({"seed": None}, "seed None: give an integer"),
        ({"offset": float("nan")}, "offset nan: give an integer"),
        ({"target_logits": ONE[0][..., :7]}, "vocabulary"),
        ({"target_logits": ONE[0][:, :2]}, "G + 1"),
        ({"target_logits": ONE[0][0]}, "G + 1"),
        ({"draft_logits": ONE[1][:, :0], "draft_tokens": ONE[2][:, :0]}, "gamma is 0"),
        ({"draft_logits": ONE[1].half()}, "draft_logits: torch.float16"),
        ({"target_logits": ONE[0].double()}, "target_logits of torch.float64"),
        ({"draft_tokens": ONE[2].int()}, "draft_tokens: torch.int32"),
        ({"draft_tokens": ONE[2][:, :1]}, "draft_tokens: torch.int64 [1, 1]"),
        ({"draft_logits": ONE[1].to("meta")}, "draft_logits is on meta"),
        ({"lengths": torch.tensor([1, 1])}, "lengths"),
        ({"uniforms": torch.rand(1, 3)}, "give torch.float32 [1, 11]"),
        ({"seed": torch.tensor([1, 2])}, "seed"),
        ({"offset": -1}, "offset -1"),
    ],
)
def test_bad_input_is_one_line(change: dict[str, object], words: str) -> None:
    names = ("target_logits", "draft_logits", "draft_tokens")
    options: dict[str, object] = dict(zip(names, ONE, strict=True)) | change
    with pytest.raises(InputError) as refused:
        verify(**options)  # type: ignore[arg-type]
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logits": ONE[0]}, "logits [1, 3, 8]: give them as [B, V]"),
        ({"logits": ONE[0][0].long()}, "logits of torch.int64"),
        ({"logits": [[1.0]]}, "logits is a list; give a tensor"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"seed": 0.5}, "seed 0.5: give an integer"),
        ({"offset": 2**32}, "offset 4294967296"),
        ({"stream": 7}, "stream 7: give philox.DRAFT or philox.NEXT"),
        ({"uniforms": torch.rand(3, 7)}, "give torch.float32 [3, 9]"),
    ],
)
def test_bad_input_of_sampling_is_one_line(change: dict[str, object], words: str) -> None:
    options: dict[str, object] = {"logits": ONE[0][0]} | change
    with pytest.raises(InputError) as refused:
        sample(**options)  # type: ignore[arg-type]
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)

"""A call whose form is known decides as the first one did, and is refused what that was refused."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from speculative.verification import forms, kernels, philox
from speculative.verification.filters import Filters
from speculative.verification.rules import Block, Calibrated, Coupled, Exact, Rule, Sigmoid
from speculative.verification.verify import sample, verify
from systems.schema import InputError

RULES: list[Rule] = [Exact(), Block(), Coupled(), Sigmoid(-9, 9), Calibrated(0.1, 0.9, -0.9)]
TENSORS: dict[str, Any] = {
    "temperature": torch.tensor([0.7, 1.3, 0.0]),
    "filters": Filters(top_k=torch.tensor([3, 0, 5]), top_p=0.9),
    "lengths": torch.tensor([2, 0, 1]),
    "seed": torch.tensor([5, 6, 7]),
    "offset": torch.tensor([0, 3, 9]),
}


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    forms.forget()


def drafted(vocabulary: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(vocabulary)
    target = torch.randn(3, 3, vocabulary, generator=generator)
    draft = target[:, :-1] + torch.randn(3, 2, vocabulary, generator=generator)
    return target, draft, torch.randint(vocabulary, (3, 2), generator=generator)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("options", [{}, TENSORS, {"filters": Filters(min_p=0.1, of_draft=False)}])
def test_a_known_form_decides_as_a_new_one(rule: Rule, options: dict[str, Any]) -> None:
    for seed in range(5):
        asked = {"rule": rule, "seed": seed, **options}
        forms.forget()
        new = verify(*drafted(), **asked)
        with mock.patch.object(kernels, "verify", side_effect=AssertionError("the operator")):
            known = verify(*drafted(), **asked)
        assert torch.equal(torch.stack(new), torch.stack(known))


def test_sampling_knows_its_forms() -> None:
    logits = drafted()[0][:, 0]
    for stream in (philox.DRAFT, philox.COUPLED):
        new = sample(logits, stream=stream, seed=3, temperature=0.8)
        with mock.patch.object(kernels, "sample", side_effect=AssertionError("the operator")):
            assert torch.equal(sample(logits, stream=stream, seed=3, temperature=0.8), new)


def test_every_option_belongs_to_the_form() -> None:
    """Calls that differ in one option alone, in any order, decide as they do alone."""
    target, draft, tokens = drafted()
    calls: list[dict[str, Any]] = [
        {},
        {"temperature": 0.1},
        {"temperature": torch.tensor([0.1, 2.0, 0.0])},
        {"rule": Sigmoid()},
        {"rule": Sigmoid(-3, 3)},
        {"filters": Filters(top_k=1)},
        {"filters": Filters(top_k=1, of_draft=False)},
        {"filters": Filters(top_p=0.5)},
        {"lengths": torch.tensor([0, 1, 2])},
        {"seed": torch.tensor([8, 9, 10])},
        {"log_probabilities": torch.empty(3, 3)},
    ]
    alone = []
    for options in calls:
        forms.forget()
        alone.append(torch.stack(verify(target, draft, tokens, **options)))
    for options, expected in [*zip(calls, alone, strict=True)] * 2:
        assert torch.equal(torch.stack(verify(target, draft, tokens, **options)), expected)
    wide = torch.randn(3, 3, 100)[..., ::2].copy_(target)  # other strides, a last one among them
    for _ in range(2):
        assert torch.equal(torch.stack(verify(wide, draft, tokens)), alone[0])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1.5},
        {"offset": -1},
        {"temperature": [1.0]},
        {"rule": "exact"},
        {"filters": None},
        {"draft_tokens": [[1]]},
        {"draft_logits": drafted()[1].half()},
        {"lengths": torch.tensor([1])},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_does_not_fit_is_refused_after_a_good_call(change: dict[str, Any]) -> None:
    names = "target_logits", "draft_logits", "draft_tokens"
    good: dict[str, Any] = dict(zip(names, drafted(), strict=True))
    for _ in range(2):
        verify(**good)
    with pytest.raises(InputError):
        verify(**good | change)


def test_a_call_that_is_recorded_is_an_operator() -> None:
    case = drafted()

    def step(target: Tensor) -> Tensor:
        return verify(target, *case[1:]).accepted

    for _ in range(2):
        step(case[0])
    graph = make_fx(step)(case[0])
    assert "speculative.verify" in graph.code


def test_a_tensor_of_a_class_of_its_own_has_no_form() -> None:
    class Own(torch.Tensor):
        pass

    case = drafted()
    made = forms.form((), {"target": case[0].as_subclass(Own)})
    assert made is None
    assert forms.known(made) is None


def test_kernels_that_are_gone_are_not_called() -> None:
    expected = [torch.stack(verify(*drafted(), seed=2)) for _ in range(2)]
    with mock.patch.object(kernels, "_library", return_value=None):
        assert torch.equal(torch.stack(verify(*drafted(), seed=2)), expected[1])


def test_forms_do_not_pile_up() -> None:
    for vocabulary in range(2, forms.MOST + 10):
        sample(torch.zeros(1, vocabulary))
    assert forms.count() <= forms.MOST

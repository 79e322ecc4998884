"""Functions of other projects are audited as they are called, or refused."""

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from speculative.auditing.adapters import ADAPTERS
from speculative.auditing.audit import Report, audit
from speculative.auditing.verifier import Verifier, emitted, one_by_one
from speculative.bench import two_softmaxes
from systems.schema import InputError

INSTALLED = "speculative.auditing.adapters.import_module"


def report(verifier: Verifier) -> Report:
    return audit(verifier, total_variation=0.2, vocabularies=(), control=False)


def test_transformers_is_audited() -> None:
    pytest.importorskip("transformers")
    adapter = ADAPTERS["transformers"]
    assert adapter.name.startswith("_speculative_sampling of transformers ")
    state = torch.get_rng_state()
    found = report(adapter.make())
    assert torch.get_rng_state().equal(state)
    assert found.wrong == ()
    notes = {c.name for c in found.checks if c.result == "note"}
    assert notes == {"first draft token accepted", "filters"}


def test_names_say_what_is_audited() -> None:
    assert ADAPTERS["exact"].name == "speculative.verify, rule exact"


@pytest.mark.parametrize(
    ("name", "package", "command"),
    [
        ("vllm", "vllm", "vllm is not installed; pip install vllm"),
        ("flashinfer", "flashinfer", "flashinfer is not installed; pip install flashinfer-python"),
    ],
)
def test_what_is_not_installed_is_refused_with_the_command(
    name: str, package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(INSTALLED, missing)
    with pytest.raises(InputError, match=command):
        ADAPTERS[name].make()


def output(target: Tensor, draft: Tensor, tokens: Tensor) -> Tensor:
    """What engines return: emitted tokens int32, with -1 behind the last."""
    decided = two_softmaxes(target, draft, tokens)
    return emitted(lambda *_: decided, target, draft, tokens, torch.Generator()).int()


def vllm_s(
    draft_token_ids: Tensor,
    num_draft_tokens: list[int],
    max_spec_len: int,
    cu_num_draft_tokens: Tensor,
    draft_probs: Tensor | None,
    target_probs: Tensor,
    bonus_token_ids: Tensor,
    sampling_metadata: Any,
) -> Tensor:
    """The textbook's verifier, behind vLLM's signature."""
    batch, vocabulary = len(num_draft_tokens), target_probs.shape[-1]
    assert cu_num_draft_tokens.tolist() == [max_spec_len * (n + 1) for n in range(batch)]
    assert not sampling_metadata.all_greedy
    assert draft_probs is not None
    shape = batch, max_spec_len, vocabulary
    tokens = draft_token_ids.view(batch, max_spec_len).long()
    bonus = torch.full((batch, 1, vocabulary), -torch.inf)
    bonus.scatter_(2, bonus_token_ids.long()[:, None], 0.0)
    target = torch.cat([target_probs.view(shape).log(), bonus], 1)
    return output(target, draft_probs.view(shape).log(), tokens)


def flashinfer_s(
    draft_probs: Tensor,
    draft_token_ids: Tensor,
    target_probs: Tensor,
    maybe_output_accepted_token_num: Tensor | None = None,
    maybe_output_emitted_draft_token_num: Tensor | None = None,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, int, int]:
    """The textbook's verifier, behind FlashInfer's signature."""
    assert generator is not None
    torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
    return output(target_probs.log(), draft_probs.log(), draft_token_ids.long()), 0, 0


@pytest.mark.parametrize(
    ("name", "called", "function"),
    [
        ("vllm", "rejection_sample", vllm_s),
        ("flashinfer", "chain_speculative_sampling", flashinfer_s),
    ],
)
def test_a_function_of_known_arguments_is_called_rightly(
    name: str, called: str, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(INSTALLED, lambda module: SimpleNamespace(**{called: function}))
    found = report(ADAPTERS[name].make())
    assert found.wrong == ()


def test_a_function_of_other_arguments_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def rejection_sample(draft_token_ids: Tensor, target_logits: Tensor) -> None: ...

    module = ModuleType("vllm.v1.sample.rejection_sampler")
    monkeypatch.setattr(module, "rejection_sample", rejection_sample, raising=False)
    monkeypatch.setattr(INSTALLED, lambda name: module)
    with pytest.raises(
        InputError, match="takes draft_token_ids, target_logits: an unknown version"
    ):
        ADAPTERS["vllm"].make()
    monkeypatch.setattr(INSTALLED, lambda name: SimpleNamespace())
    with pytest.raises(InputError, match=r"cannot be imported: .*; use another version"):
        ADAPTERS["flashinfer"].make()


def test_a_verifier_of_one_sequence_that_is_cut() -> None:
    made = one_by_one(lambda z, y, x, _: two_softmaxes(z, y, x))
    assert report(made).wrong == ()

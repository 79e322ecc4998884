"""Verifiers by name: ours, and those of other projects where they are installed.

What other projects' functions take is looked up by the names of their parameters; a version with
others is refused. Those of vLLM and FlashInfer take probabilities, so they are audited together
with a softmax in float32. vLLM leaves the bonus token to its caller: here it is sampled from the
target's last row. FlashInfer's kernels need a GPU; vLLM's are Triton's and also run on a CPU with
TRITON_INTERPRET=1.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from speculative.auditing import pairs
from speculative.auditing.pairs import GAMMA
from speculative.auditing.verifier import Verifier, one_by_one
from speculative.bench import transformers_region
from speculative.verification.calibration import Observed
from speculative.verification.filters import Filters
from speculative.verification.rules import RULES, Calibrated, Rule
from speculative.verification.verify import UNFILTERED, verify
from systems.schema import InputError

OF_VLLM = "vllm.v1.sample.rejection_sampler"
TAKEN_BY_VLLM = {
    "draft_token_ids",
    "num_draft_tokens",
    "max_spec_len",
    "cu_num_draft_tokens",
    "draft_probs",
    "target_probs",
    "bonus_token_ids",
    "sampling_metadata",
}
TAKEN_BY_FLASHINFER = {"draft_probs", "draft_token_ids", "target_probs", "generator"}


@dataclass(frozen=True)
class Adapter:
    """How a verifier that has a name is made."""

    make: Callable[[], Verifier]
    function: str
    """The function that is audited, for the report."""
    package: str = ""
    """The distribution that it is of, whose version the report says; empty: this one."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        if not self.package:
            return self.function
        return f"{self.function} of {self.package} {metadata.version(self.package)}"


def of_rule(rule: Rule) -> Verifier:
    """Our operator with this rule, with a seed for every sequence."""

    def decide(
        target: Tensor,
        draft: Tensor,
        tokens: Tensor,
        generator: torch.Generator,
        filters: Filters = UNFILTERED,
    ) -> tuple[Tensor, Tensor]:
        seeds = torch.randint(2**62, (len(tokens),), generator=generator, device=tokens.device)
        accepted, token, _ = verify(target, draft, tokens, rule=rule, filters=filters, seed=seeds)
        return accepted, token

    return decide


def of_transformers() -> Verifier:
    """transformers' function, which takes one sequence and draws from torch's own generator."""
    region = one_by_one(
        lambda target, draft, tokens, _: transformers_region()(target, draft, tokens)
    )
    return _seeded(region)


def of_vllm() -> Verifier:
    """vLLM's rejection sampler for sampled requests."""
    sample = _function(OF_VLLM, "rejection_sample", "vllm", TAKEN_BY_VLLM)

    def decide(target: Tensor, draft: Tensor, tokens: Tensor, _: torch.Generator) -> Tensor:
        batch, gamma = tokens.shape
        p, q = target.float().softmax(-1), draft.float().softmax(-1)
        ends = torch.arange(1, batch + 1, dtype=torch.int32, device=tokens.device) * gamma
        settings = SimpleNamespace(
            all_greedy=False,
            all_random=True,
            temperature=torch.ones(batch, device=tokens.device),
            generators={},
        )
        found: Tensor = sample(
            draft_token_ids=tokens.flatten().int(),
            num_draft_tokens=[gamma] * batch,
            max_spec_len=gamma,
            cu_num_draft_tokens=ends,
            draft_probs=q.flatten(0, 1),
            target_probs=p[:, :gamma].flatten(0, 1).contiguous(),
            bonus_token_ids=p[:, gamma].multinomial(1).int(),
            sampling_metadata=settings,
        )
        return found

    return _seeded(decide)


def of_flashinfer() -> Verifier:
    """FlashInfer's chain_speculative_sampling."""
    sample = _function(
        "flashinfer.sampling",
        "chain_speculative_sampling",
        "flashinfer-python",
        TAKEN_BY_FLASHINFER,
    )

    def decide(target: Tensor, draft: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        found: Tensor = sample(
            draft_probs=draft.float().softmax(-1),
            draft_token_ids=tokens.int(),
            target_probs=target.float().softmax(-1),
            generator=generator,
        )[0]
        return found

    return decide


def calibrated() -> Calibrated:
    """The calibrated rule, fitted to drafts of the ordinary pair."""
    pair = pairs.random()
    numbers = pair.drafts.multinomial(4096, True, generator=torch.Generator().manual_seed(0))
    observed = Observed()
    tokens = pairs.sequences(numbers, GAMMA)
    observed.add(pair.target_rows[numbers], pair.draft_rows[numbers], tokens)
    return observed.fit()


OURS: dict[str, Callable[[], Rule]] = {
    **{rule.name: rule for rule in RULES},
    Calibrated.name: calibrated,  # the one rule with numbers of a pair
}


def _of_ours(name: str) -> Adapter:
    """Our operator with the rule of this name."""
    return Adapter(lambda: of_rule(OURS[name]()), f"speculative.verify, rule {name}")


ADAPTERS = {
    **{name: _of_ours(name) for name in OURS},
    "transformers": Adapter(of_transformers, "_speculative_sampling", "transformers"),
    "vllm": Adapter(of_vllm, "rejection_sample", "vllm"),
    "flashinfer": Adapter(of_flashinfer, "chain_speculative_sampling", "flashinfer-python"),
}
"""All verifiers that have a name."""


def _seeded(verifier: Verifier) -> Verifier:
    """A verifier that draws from torch's own generator, which a number of ours seeds each time."""

    def decide(target: Tensor, draft: Tensor, tokens: Tensor, generator: torch.Generator) -> Any:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        devices = [target.device] if target.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            return verifier(target, draft, tokens, generator)

    return decide


def _function(module: str, name: str, package: str, taken: set[str]) -> Callable[..., Any]:
    """A function of another project.

    Raises:
        InputError: it is not installed or cannot be imported, or takes other arguments.
    """
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name == module.split(".")[0]:
            raise InputError(f"{error.name} is not installed; pip install {package}") from None
        raise InputError(f"{module} cannot be imported: {error}; use another version") from None
    except (ImportError, AttributeError) as error:
        raise InputError(f"{module} cannot be imported: {error}; use another version") from None
    parameters = inspect.signature(found).parameters
    needed = {p.name for p in parameters.values() if p.default is p.empty}
    if not (needed <= taken <= set(parameters)):
        raise InputError(
            f"{module}.{name} takes {', '.join(parameters)}: an unknown version; give a "
            "function of your own that calls it, as module:function"
        )
    return found

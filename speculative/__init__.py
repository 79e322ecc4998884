"""Speculative sampling (arXiv 2406.11016): a small draft model proposes tokens, a large target
model verifies them.

    import speculative

    speculative.generate(target, draft, inputs)     # our decoding loop, for batches
    speculative.stream(target, draft, inputs)       # the same, step by step
    speculative.assisted(model)                     # our verification in transformers' own loop
    speculative.verify(target_logits, draft_logits, draft_tokens)    # the operator alone
    speculative.verify_tree(target_logits, draft_logits, draft_tokens, parents)    # of a tree
    speculative.audit(verifier)                     # is a verifier, ours or another, exact?

`verification` has the operator and a glossary, `decoding` the loops around it, `tasks` trains and
scores pairs of models, `experiments` holds the paper's claims against measurements, `auditing`
holds any verifier to the target's distribution.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speculative.auditing.audit import audit
    from speculative.decoding.assisted import assisted
    from speculative.decoding.decode import generate, stream
    from speculative.decoding.lookup import Lookup
    from speculative.decoding.pace import AdaptiveGamma
    from speculative.decoding.sampling import Sampling
    from speculative.verification.filters import Filters
    from speculative.verification.rules import Block, Calibrated, Coupled, Exact, Sigmoid
    from speculative.verification.tree import verify_tree
    from speculative.verification.verify import verify

__all__ = [
    "AdaptiveGamma",
    "Block",
    "Calibrated",
    "Coupled",
    "Exact",
    "Filters",
    "Lookup",
    "Sampling",
    "Sigmoid",
    "assisted",
    "audit",
    "generate",
    "stream",
    "verify",
    "verify_tree",
]
_HOMES = {
    "AdaptiveGamma": "decoding.pace",
    "Block": "verification.rules",
    "Calibrated": "verification.rules",
    "Coupled": "verification.rules",
    "Exact": "verification.rules",
    "Filters": "verification.filters",
    "Lookup": "decoding.lookup",
    "Sampling": "decoding.sampling",
    "Sigmoid": "verification.rules",
    "assisted": "decoding.assisted",
    "audit": "auditing.audit",
    "generate": "decoding.decode",
    "stream": "decoding.decode",
    "verify": "verification.verify",
    "verify_tree": "verification.tree",
}
"""Where the public names are. They are imported when they are first used, since most need torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'speculative' has no attribute {name!r}")
    return getattr(import_module(f"speculative.{_HOMES[name]}"), name)

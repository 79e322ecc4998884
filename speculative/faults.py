"""Faults that a verification reports, in words."""

from speculative import status

MEANINGS = {
    status.TARGET_LOGITS: "the target's logits hold NaN or infinity, or exclude every token",
    status.DRAFT_LOGITS: "the draft's logits hold NaN or infinity, or exclude every token",
    status.DRAFT_TOKEN: "no draft token could be sampled from the draft's logits",
    status.LENGTH: "the number of draft tokens is out of range",
}


class LogitsError(RuntimeError):
    """A model gave logits that nothing can be sampled from."""


def explain(bits: int) -> str:
    """What a status that is not 0 means."""
    return "; ".join(text for bit, text in MEANINGS.items() if bits & bit)

"""The bits of `Verification.status`, which say why a sequence got no next token; 0: it got one."""

TARGET_LOGITS = 1
"""One of the target's rows that were read holds NaN or +inf, or excludes every token."""
DRAFT_LOGITS = 2
"""The same for one of the draft's rows; only the exact rule minds excluded tokens there."""
DRAFT_TOKEN = 4
"""A draft token lies outside the vocabulary."""
LENGTH = 8
"""A sequence's number of draft tokens lies outside 0 to gamma."""
TEMPERATURE = 16
"""A sequence's temperature is neither 0 nor a positive number that float32 holds in full."""

MEANINGS = {
    TARGET_LOGITS: "the target's logits hold NaN or infinity, or exclude every token",
    DRAFT_LOGITS: "the draft's logits hold NaN or infinity, or exclude every token",
    DRAFT_TOKEN: "no draft token could be sampled from the draft's logits",
    LENGTH: "the number of draft tokens is out of range",
    TEMPERATURE: "the temperature is out of range",
}


class LogitsError(RuntimeError):
    """A model gave logits that nothing can be sampled from."""


def explain(bits: int) -> str:
    """The meanings of a status that is not 0, in words."""
    return "; ".join(text for bit, text in MEANINGS.items() if bits & bit)

"""Why a sequence got no token: bits of `Verification.status`; 0 is a good outcome."""

TARGET_LOGITS = 1
"""A row of the target that was read holds NaN or +inf, or excludes every token."""
DRAFT_LOGITS = 2
"""A row of the draft that was read holds NaN or +inf, or (exact) excludes every token."""
DRAFT_TOKEN = 4
"""A draft token lies outside the vocabulary."""
LENGTH = 8
"""A length lies outside 0 to gamma."""


MEANINGS = {
    TARGET_LOGITS: "the target's logits hold NaN or infinity, or exclude every token",
    DRAFT_LOGITS: "the draft's logits hold NaN or infinity, or exclude every token",
    DRAFT_TOKEN: "no draft token could be sampled from the draft's logits",
    LENGTH: "the number of draft tokens is out of range",
}


class LogitsError(RuntimeError):
    """A model gave logits that nothing can be sampled from."""


def explain(bits: int) -> str:
    """What a status that is not 0 means."""
    return "; ".join(text for bit, text in MEANINGS.items() if bits & bit)

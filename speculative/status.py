"""Why a sequence got no token: bits of `Verification.status`; 0 is a good outcome."""

TARGET_LOGITS = 1
"""A row of the target that was read holds NaN or +inf, or excludes every token."""
DRAFT_LOGITS = 2
"""A row of the draft that was read holds NaN or +inf, or (exact) excludes every token."""
DRAFT_TOKEN = 4
"""A draft token lies outside the vocabulary."""
LENGTH = 8
"""A length lies outside 0 to gamma."""

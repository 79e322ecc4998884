"""The decoding loop: drafts tokens, verifies them, and keeps the caches of both models."""

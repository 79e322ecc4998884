"""The decoding loop, which drafts tokens, verifies them, and keeps the caches of both models.

`decode.generate` is our own loop, `assisted` puts our verification into transformers' loop. A
reader (`even_rows.Reader`) reads tokens with a model, gives logits, and can go back; `reading`
finds out which kind of reader a model needs. The terms of verification stand in
`speculative.verification`.
"""

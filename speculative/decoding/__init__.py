"""The decoding loop, which drafts tokens, verifies them, and keeps the caches of both models.

`decode.generate` is our own loop and `decode.stream` the same step by step (`stream`, `step`);
`assisted` puts our verification into transformers' loop. Tokens are chosen as `sampling` and
`processors` say. A reader (`even_rows.Reader`) reads tokens with a model, gives logits, and can go
back; `reading` finds out which kind of reader a model needs. The terms of verification stand in
`speculative.verification`.
"""

"""Speculative sampling (arXiv 2406.11016): a small draft model proposes tokens, a large target
model verifies them.

`verification` has the operator and a glossary, `decoding` the loops around it, `tasks` trains and
scores pairs of models, `experiments` holds the paper's claims against measurements.
"""

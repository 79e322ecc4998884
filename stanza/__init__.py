"""Stanza (arXiv 1812.10624): layer-separated training of CNNs, and the baselines it must beat.

`stanza.workers` opens with a picture of one step and a glossary.
"""

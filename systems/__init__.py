"""What every system of the testbed stands on: clusters, profiles, processes, records, figures.

Nothing in here knows Stanza, SparsePipe or speculative sampling.
"""

"""Predictions against training jobs that other people measured on their clusters.

- `rates`, `job`, `placement`: what a measured job is made of.
- `sailor` and `sailor_costs`: the reader of a published set of them.
- `times`: from a job's profiles and cluster to the seconds of its passes, messages, reductions.
- `formula` and `played`: the iteration from these seconds, in closed form and in the simulator.
- `memory`: the bytes of the fullest GPU.
- `errors`: predicted beside measured, by kind of plan, cross-validated.
"""

"""The heterogeneous partition planner; `sparsepipe.plan` is its public side."""

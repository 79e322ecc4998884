"""The heterogeneous partition planner; `sparsepipe.planner.plan` is its public side."""

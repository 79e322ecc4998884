"""The heterogeneous planner: from profiles and a cluster to a `Plan` with the shortest step.

`plan.partition` is the public side. Below it, in the order in which a plan comes about:

    costs       profiles and cluster as arrays
    predict     the cost model: what any stages, shares and schedule take
    shares      the best unequal shares of a stage's replicas
    search      stages with every device in at most one, by dynamic programming
    lanes       many devices as equal pipelines side by side
    blocks      the same for more devices and kinds than can be searched exactly
    contiguous  the best plan with one stage a device: by one of the two
    virtual     a search for plans in which a device holds several stages
    order       how many mini-batches an asynchronous schedule has in flight
    bound       a lower bound on the step of any plan
    baselines   the plans to beat

The terms are defined in `sparsepipe.schedule`.
"""

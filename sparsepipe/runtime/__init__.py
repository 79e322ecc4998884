"""The runtime of a pipeline: it cuts a network into stages, and plays a schedule over ranks.

From the network to one rank's work (the terms are defined in `sparsepipe.schedule`):

    network.Network     the network as numbered layers (`tracing`); a run of them is a `StageModule`
    run.run_pipeline    opens the part of this rank, and executes its list (`play`)
    stage.StageRuntime  what each action does for one stage on one rank
    versions            the weight versions that a stage keeps (weight stashing)
    samples             which samples each replica takes (unequal shares)
    transfer, mailbox   activations and gradients on their way to and from other ranks
    batch               inputs and targets, divided by samples
    reduction           the sum of a stage's gradients over its replicas
"""

"""The runtime of a pipeline: it cuts a network into stages, and plays a schedule over ranks.

From the network to one rank's work (the terms are defined in `sparsepipe.schedule`):

    network.Network     the network as numbered layers; a run of them is a `StageModule`
    run.run_pipeline    executes the list of this rank, action by action
    stage.StageRuntime  what each action does for one stage on one rank
    versions            the weight versions that a stage keeps (weight stashing)
    samples             which samples each replica takes (unequal shares)
    transfer, mailbox   activations and gradients on their way to and from other ranks
    reduction           the sum of a stage's gradients over its replicas
"""

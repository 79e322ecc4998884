"""SparsePipe as a library: `sparsepipe.pipeline` trains a user's network, step by step.

pipeline    `pipeline(...)` and what it returns, a `Pipeline`
placement   which rank holds which layers, and by which schedule
given       mini-batches by number, which a user gives one after the other
segment     such mini-batches, played by the runtime as far as they go
losses      their mean losses, told to all ranks
tally       the mean of a metric over the outputs of the last stage
"""

"""Stanza for somebody's own model and training loop.

    import stanza

    trained = stanza.separate(model, optimizer=make_sgd, loss=cross_entropy, fc_workers="auto")
    for epoch in range(epochs):
        for images, labels in trained.loader(dataset, batch_size=48):
            loss = trained.step(images, labels)
    accuracy = trained.evaluate(metric)
    weights = trained.state_dict()          # the whole model, plain names, on rank 0

The same lines run on every rank, under torchrun or any other launcher, or in a single process. A
rank without data (an FC worker, a parameter server) gets batches of no samples from the loader, and
`step` does what its role asks. `scheme` says how training is distributed, so that schemes are
compared without a rewrite.
"""

from stanza.library.separate import separate
from stanza.library.trained import Trained

__all__ = ["Trained", "separate"]

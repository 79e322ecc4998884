"""Federated training: a server, clients with data of their own, and updates that arrive late.

Terms, as FedBuff (arXiv 2106.06639) has them:

- A client trains the server's model on its own samples and uploads its update: the parameters that
  it has got less those that it has then.
- The concurrency C is how many clients train at once.
- A server step is one change of the server's model; its number after t steps is the version t.
- The buffer sums updates. When it holds K of them, K being the goal, the server steps.
- The staleness of an update is the number of server steps since its client got the model.
- A flight is one training of one client, from its start until its update arrives, or never does.
"""

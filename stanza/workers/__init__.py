"""What every rank does in one training step, and the terms of layer separation.

A CNN has most of its parameters in the fully connected (FC) layers at its end and most of its
arithmetic in the convolutions before them. Data parallelism sends the gradients of all parameters
over the network. Layer separation (Stanza, arXiv 1812.10624) does not: most ranks train only the
convolutions, few train only the FC layers, and in place of the FC gradients the much smaller
activations between the two parts travel.

    CONV worker 0   CONV worker 1   CONV worker 2      one step:
         |               |               |
         | 1. activations and labels     |             1. each CONV worker runs its share of the
         +-------+-------+-------+-------+                batch forward and sends the activations
                 v               |                     2. the FC worker runs forward and backward
            FC worker 3          |                        on all of them, updates the FC part,
                 |               |                        and sends back the gradients of the
                 | 3. gradients of the activations        activations (3.)
         +-------+-------+-------+-------+             4. each CONV worker runs backward
         v               v               v             5. they sum their gradients and update
         +<------ 5. all-reduce -------->+                the convolutional part

Glossary:
    activations   the values that cross from the convolutional part into the FC part.
    colocated     an FC worker or a server is a second role of a rank that has data; one that is
                  dedicated has a rank of its own.
    columns       one of two ways for several FC workers to share the FC part: each holds a slice
                  of the inputs of every FC layer (`stanza.workers.columns`).
    CONV worker   a rank that has data and trains the convolutional part on its share of it.
    cut           the place between the convolutional part and the FC part (`stanza.cut.rule`).
    cut gradient  the gradient of the loss with respect to the activations at the cut.
    exchange      how the ranks that hold copies of the same layers agree on an update: by
                  all-reduce, by parameter servers, or by ZeRO (`stanza.workers.exchange`); and what
                  travels meanwhile (`stanza.exchanges`).
    FC worker     a rank that trains the FC part on the activations of its CONV workers.
    micro-batch   a part of a local batch that crosses the cut by itself, so that computing and
                  sending overlap (`stanza.workers.conv_worker`).
    parameter     a process or thread that holds parameters: workers push gradients to it and pull
    server        the updated parameters (`stanza.workers.parameter_server`).
    rank          one process of the training, by its number.
    replicas      the other way for several FC workers to share the FC part: each holds all of it
                  and serves some of the CONV workers; they all-reduce their gradients.
    share         the samples of a step's global batch that one rank takes.
    shard         the slice of the model that one of several parameter servers holds.
    staleness     how many updates the parameters lack on which a worker computes a gradient
                  (`stanza.workers.stale_server`).
    worker        in the baselines, a rank that has data and trains the whole model.
"""

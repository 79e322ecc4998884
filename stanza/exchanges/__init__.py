"""What travels when ranks exchange gradients: all of them, fewer bits of each, a few of them, or
nothing for some steps.

    --stanza.exchange top-k                  one of the names here
    --stanza.exchange mine.py:RandomK        or one's own, by its import path

An exchange is of one of two kinds:

- A *codec* has `encode` and `decode`: a vector becomes messages, and messages a vector again. All
  ranks of DDP send each other their messages and add up what they decode (an all-gather). Workers
  send a parameter server their encoded gradients, and it sends back the encoded change of the
  parameters (`stanza.workers.shards`).
- A *hook* is what DistributedDataParallel calls so: a function of a bucket that returns a future
  of the mean gradient. It serves `--stanza.scheme ddp` alone, and may do what it likes.

Glossary:
    bucket          the gradients of neighbouring layers as one vector, which travel together.
    density         the part of the values that a sparse message carries.
    error feedback  what a codec has lost of a vector is added to the next one, so that nothing is
                    lost for good (`stanza.exchanges.codec.ErrorFeedback`).
    message         a tensor that travels in place of a vector.
"""

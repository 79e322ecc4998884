"""A codec as a hook of DDP: every rank sends its messages to all others, and adds up what all of
them mean. Encoded gradients cannot be summed on their way, as a ring does."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future

from stanza.exchanges.codec import CodecFactory, Packer


class Gathered:
    """The hook. It has a codec for each bucket, as a codec may remember what it has lost.

    DDP fills its buckets in another order after the first step. So a bucket that holds other
    parameters than in the step before is all-reduced whole: what a codec remembers of it would
    belong to other parameters.
    """

    def __init__(self, make: CodecFactory, process_group: dist.ProcessGroup) -> None:
        """Exchange with the ranks of the group, by codecs that `make` makes."""
        self._make, self._group = make, process_group
        self._holds: dict[int, list[int]] = {}
        self._packers: dict[int, Packer] = {}

    def __call__(self, bucket: dist.GradBucket) -> "Future[Tensor]":
        """Start the exchange of a bucket; the future has the mean over the ranks."""
        index, holds = bucket.index(), [id(parameter) for parameter in bucket.parameters()]
        if self._holds.get(index) != holds:
            self._holds[index] = holds
            self._packers.pop(index, None)
            return allreduce_hook(self._group, bucket)
        flat = bucket.buffer()
        if index not in self._packers:
            self._packers[index] = Packer(self._make, flat, feedback=True)
        packer, ranks = self._packers[index], self._group.size()
        packed = packer.pack(flat)
        everyone = [torch.empty_like(packed) for _ in range(ranks)]
        work = dist.all_gather(everyone, packed, group=self._group, async_op=True)
        assert work is not None  # this rank is in the group

        def mean(_: "Future[list[Tensor]]") -> Tensor:
            flat.copy_(packer.unpack(everyone[0]))
            for each in everyone[1:]:  # in rank order: the sum is the same on every rank
                flat.add_(packer.unpack(each))
            return flat.div_(ranks)

        return work.get_future().then(mean)

"""How updates travel: bytes that a client sends, and what the server makes of them.

    message = codec.encode(delta, start, number)      # uint8 [bytes]
    delta = codec.decode(message, start, number)

Clients are too many, and come too seldom, to keep what a message leaves out for their next one:
there is no error feedback.
"""

from math import ceil, prod
from typing import Protocol

import torch
from torch import Tensor, nn

from federated.durations import CODE, draws
from federated.networks import parameter_shapes
from federated.options import HALVED, Options
from federated.planning import low_rank
from federated.synthetic import Synthetic


class Codec(Protocol):
    """A way for updates to travel."""

    def encode(self, delta: Tensor, start: Tensor, number: int) -> Tensor:
        """The message of an update that was trained from `start` [P], as uint8 [bytes].

        Args:
            delta: [P], or one factor of the adapters.
        """
        ...

    def decode(self, message: Tensor, start: Tensor, number: int) -> Tensor:
        """The update in a message."""
        ...


def codec_of(options: Options, network: nn.Module, seed: int) -> Codec:
    """The codec that the options name."""
    shapes = parameter_shapes(options.model, options.data)
    kept = ceil(options.upload_share * sum(map(prod, shapes)))
    ways: dict[str, Codec] = {
        "full": Plain(None),
        "fp16": Plain(torch.float16),
        "top-k": TopK(kept),
        "random-mask": RandomMask(kept, seed),
        "sign": Sign(shapes),
        "low-rank": LowRank(shapes, options.upload_rank, seed),
        "synthetic": Synthetic(network, options, seed),
        HALVED: Plain(None),  # of the factor that is sent
    }
    return ways[options.upload]


class Plain:
    """All values, perhaps in a narrower dtype."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        """None: in their own dtype."""
        self._dtype = dtype

    def encode(self, delta: Tensor, start: Tensor, number: int) -> Tensor:
        return as_bytes(delta.to(self._dtype or delta.dtype))

    def decode(self, message: Tensor, start: Tensor, number: int) -> Tensor:
        return message.view(self._dtype or start.dtype).to(start.dtype)


class TopK:
    """The k values of the largest size, each with its place."""

    def __init__(self, k: int) -> None:
        self._k = k

    def encode(self, delta: Tensor, start: Tensor, number: int) -> Tensor:
        places = delta.abs().topk(self._k).indices
        return torch.cat([as_bytes(places.to(torch.int32)), as_bytes(delta[places].float())])

    def decode(self, message: Tensor, start: Tensor, number: int) -> Tensor:
        places, values = message.split(4 * self._k)
        delta = torch.zeros_like(start)
        delta[places.view(torch.int32).long()] = values.view(torch.float32).to(start.dtype)
        return delta


class RandomMask:
    """k values at places that both sides draw alike, times P / k: the mean over all draws is the
    update."""

    def __init__(self, k: int, seed: int) -> None:
        self._k, self._seed = k, seed

    def encode(self, delta: Tensor, start: Tensor, number: int) -> Tensor:
        return as_bytes(delta[self._places(delta, number)].float())

    def decode(self, message: Tensor, start: Tensor, number: int) -> Tensor:
        delta, values = torch.zeros_like(start), message.view(torch.float32).to(start.dtype)
        delta[self._places(start, number)] = values * (len(start) / self._k)
        return delta

    def _places(self, values: Tensor, number: int) -> Tensor:
        generator = draws(self._seed, CODE, number)
        chosen = generator.choice(len(values), self._k, replace=False, shuffle=False)
        return torch.from_numpy(chosen).to(values.device)


class Sign:
    """A bit for every value, and for every parameter the mean size of its values."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        self._sizes = [prod(shape) for shape in shapes]

    def encode(self, delta: Tensor, start: Tensor, number: int) -> Tensor:
        scales = torch.stack([part.abs().mean() for part in delta.split(self._sizes)])
        bits = nn.functional.pad((delta >= 0).to(torch.uint8), (0, -len(delta) % 8)).view(-1, 8)
        packed = (bits << torch.arange(8, dtype=torch.uint8, device=delta.device)).sum(1)
        return torch.cat([as_bytes(scales.float()), packed.to(torch.uint8)])

    def decode(self, message: Tensor, start: Tensor, number: int) -> Tensor:
        scales, packed = message.tensor_split([4 * len(self._sizes)])
        bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=message.device) & 1
        signs = (2 * bits.flatten()[: len(start)].to(start.dtype) - 1).split(self._sizes)
        means = scales.contiguous().view(torch.float32).to(start.dtype)
        return torch.cat([mean * sign for mean, sign in zip(means, signs, strict=True)])


class LowRank:
    """Every matrix M as P Q^T of rank r, by one power iteration from a Q that is drawn, as PowerSGD
    (arXiv 1905.13727) does; other parameters, and matrices for which it does not pay, as they are.
    """

    def __init__(self, shapes: list[tuple[int, ...]], rank: int, seed: int) -> None:
        self._sizes = [prod(shape) for shape in shapes]
        self._ranks = [low_rank(shape, rank) for shape in shapes]
        self._seed = seed

    def encode(self, delta: Tensor, start: Tensor, number: int) -> Tensor:
        sent, generator = [], draws(self._seed, CODE, number)
        parts = delta.split(self._sizes)
        for part, (rows, columns, rank) in zip(parts, self._ranks, strict=True):
            if not rank:
                sent.append(part)
                continue
            matrix, drawn = part.view(rows, columns), generator.standard_normal((columns, rank))
            left = torch.linalg.qr(matrix @ torch.from_numpy(drawn).to(part)).Q
            sent += [left.flatten(), (matrix.T @ left).flatten()]
        return as_bytes(torch.cat(sent).float())

    def decode(self, message: Tensor, start: Tensor, number: int) -> Tensor:
        values, parts = message.view(torch.float32).to(start.dtype), []
        for (rows, columns, rank), size in zip(self._ranks, self._sizes, strict=True):
            ends = [rows * rank, (rows + columns) * rank] if rank else [size, size]
            left, right, values = values.tensor_split(ends)
            whole = left.view(rows, rank) @ right.view(columns, rank).T if rank else left
            parts.append(whole.flatten())
        return torch.cat(parts)


def as_bytes(values: Tensor) -> Tensor:
    """The memory of a vector, uint8."""
    return values.contiguous().view(torch.uint8)

"""How many samples each of several workers, or each micro-batch, gets. Needs no torch."""

from collections.abc import Sequence


def even_shares(size: int, count: int) -> tuple[int, ...]:
    """The sizes of `count` parts of `size` samples, as `torch.tensor_split` cuts them.

    They differ by at most one sample; the larger ones come first.
    """
    base, larger = divmod(size, count)
    return (base + 1,) * larger + (base,) * (count - larger)


def weighted_shares(size: int, weights: Sequence[float]) -> tuple[int, ...]:
    """The sizes of parts of `size` samples that are in proportion to `weights`, all above 0.

    Each differs from its exact proportion by less than one sample. Those that are cut most by
    rounding down get a sample more; among equals the first ones.
    """
    total = sum(weights)
    exact = [size * weight / total for weight in weights]
    parts = [int(part) for part in exact]
    most_cut = sorted(range(len(weights)), key=lambda i: (parts[i] - exact[i], i))
    for index in most_cut[: size - sum(parts)]:
        parts[index] += 1
    return tuple(parts)

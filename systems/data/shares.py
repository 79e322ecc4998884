"""How many samples each of several workers, or each micro-batch, gets. Needs no torch."""


def even_shares(size: int, count: int) -> tuple[int, ...]:
    """The sizes of `count` parts of `size` samples, as `torch.tensor_split` cuts them.

    They differ by at most one sample; the larger ones come first.
    """
    base, larger = divmod(size, count)
    return (base + 1,) * larger + (base,) * (count - larger)

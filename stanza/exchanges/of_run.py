"""How much an exchange sends in a run, whose layers and steps are known; see
`stanza.exchanges.names.compression_of` for what is known before."""

from collections.abc import Sequence
from math import prod

from stanza.exchanges.find import NamedExchange
from stanza.exchanges.names import WHOLE, Compression, arguments_of, compression_of


def compression_of_run(
    exchange: NamedExchange | None, scheme: str, shapes: Sequence[Sequence[int]], measured: range
) -> Compression | None:
    """The mean compression over the measured steps; None for a hook of one's own, of which only a
    run can tell.

    Args:
        exchange: what the options name; None is the plain one.
        shapes: the shapes of the model's parameters.
        measured: the numbers of the steps whose bytes are counted.
    """
    if exchange is None:
        return WHOLE
    known = compression_of(exchange.name, exchange.arguments)
    if known is not None:
        return known
    arguments = arguments_of(exchange.name, exchange.arguments)
    if exchange.name == "powersgd":
        return _powersgd(shapes, **arguments)
    if exchange.name == "post-local-sgd":
        return _post_local_sgd(measured, **arguments)
    factor = exchange.check(scheme)
    return None if factor is None else Compression(factor, gathered=True)


def _powersgd(shapes: Sequence[Sequence[int]], *, rank: int, start: int) -> Compression:
    """Compute the compression of PowerSGD. A matrix [n, m] travels as [n, r] and [m, r] where these
    are less than half of it; of a tensor with more dimensions the first is n. `start` is over when
    the measured steps begin."""
    sent = 0
    for shape in shapes:
        values = prod(shape)
        rows = shape[0] if len(shape) > 1 else 1
        columns = values // rows
        thin = rank * (rows + columns)
        few = min(rank, rows, columns) * (rows + columns)
        sent += few if len(shape) > 1 and 2 * thin < values else values
    return Compression(sent / sum(map(prod, shapes)))


def _post_local_sgd(measured: range, *, period: int, start: int) -> Compression:
    """Compute the compression of post-local SGD. Gradients are all-reduced in the steps before
    `start`, and parameters in that step and in every `period`-th after it."""
    exchanged = [step < start or (step - start) % period == 0 for step in measured]
    return Compression(sum(exchanged) / len(exchanged))

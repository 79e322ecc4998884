"""What every two ranks of a shaped run get from each other; `systems.network.links` measures it."""

from dataclasses import dataclass
from statistics import median

MOST_OFF = 0.10
"""A link that is off its rate by a larger share than this is not what it is said to be."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What two ranks get from each other, both ways at once."""

    ranks: tuple[int, int]
    ratio: float
    """The time of a message over its ideal time, which is its size over the rate of the slower of
    the two links: the median of a few repetitions, of the slower direction."""


@dataclass(frozen=True, kw_only=True)
class PairCalibration:
    """What the links between any two ranks of a shaped run really give."""

    rate_bits_per_s: tuple[float, ...]
    """The rate that the link of every rank was given."""
    pairs: tuple[Pair, ...]
    """Every two ranks."""
    latency_s: float
    """Seconds that a message of 4 bytes takes, at the best of many times."""

    @property
    def ratio(self) -> float:
        """The ratio of the pair in the middle; 1 for a single rank."""
        return median(pair.ratio for pair in self.pairs) if self.pairs else 1.0

    def fault(self) -> str | None:
        """A sentence that names a pair that is off by over 10 %; None if all keep their rate."""
        for pair in self.pairs:
            if abs(pair.ratio - 1) > MOST_OFF:
                one, other = pair.ranks
                return (
                    f"a message between ranks {one} and {other} takes {pair.ratio:.2f} of its "
                    "ideal time"
                )
        return None

    def __str__(self) -> str:
        ratios = [pair.ratio for pair in self.pairs] or [1.0]
        return (
            f"{len(self.pairs)} pairs of ranks, {min(ratios):.3f} to {max(ratios):.3f} of the "
            f"ideal time, latency {self.latency_s * 1e3:.3f} ms"
        )


def meetings(size: int) -> list[list[tuple[int, int]]]:
    """The rounds in which every two of `size` ranks meet once, each rank at most once in a round:
    all ranks but one go round a circle, and opposite ones meet."""
    seats = list(range(size + size % 2))
    rounds = []
    for _ in seats[1:]:
        opposite = zip(seats[: len(seats) // 2], reversed(seats), strict=False)
        rounds.append([(min(p), max(p)) for p in opposite if max(p) < size])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return rounds

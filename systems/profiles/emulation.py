"""How an emulated cluster differs from the one that it stands for: `scale` and `dilate`.

This machine cannot carry the messages of a fast cluster at their real size in their real time.
Dividing all message sizes by `scale` makes a slow link take as long for them as the fast one takes
for the real ones. Multiplying all durations by `dilate` leaves the ranks' own Python small beside
them. A link of R bits/s is then emulated by one of R / (scale * dilate) bits/s.
"""

from dataclasses import dataclass

from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """The two factors between an emulated cluster and the one that it stands for."""

    scale: float = 1.0
    """Message sizes and link rates are divided by this."""
    dilate: float = 1.0
    """Durations are multiplied by this, and link rates divided."""

    def __post_init__(self) -> None:
        for name, value in (("scale", self.scale), ("dilate", self.dilate)):
            if not 0 < value < float("inf"):
                raise InputError(f"--{name} {value:g}: give more than 0")

    def rate_bits_per_s(self, bandwidth_bits_per_s: float) -> float:
        """The rate of the emulated link that stands for a link of this bandwidth."""
        return float(round(bandwidth_bits_per_s / (self.scale * self.dilate)))

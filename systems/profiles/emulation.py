"""How an emulated cluster differs from the one that it stands for."""

from dataclasses import dataclass

from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """How an emulated cluster differs from the one it stands for."""

    scale: float = 1.0
    """Message sizes and link rates are divided by this."""
    dilate: float = 1.0
    """Durations are multiplied by this, and link rates divided."""

    def __post_init__(self) -> None:
        for name, value in (("scale", self.scale), ("dilate", self.dilate)):
            if not 0 < value < float("inf"):
                raise InputError(f"--{name} {value:g}: give more than 0")

    def rate_bits_per_s(self, bandwidth_bits_per_s: float) -> float:
        """The rate of the link that stands for one of this bandwidth."""
        return float(round(bandwidth_bits_per_s / (self.scale * self.dilate)))

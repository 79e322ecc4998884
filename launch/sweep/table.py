"""What a sweep prints: a line for every point while it runs, and the comparison at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

from launch.sweep.groups import Group, in_short
from launch.sweep.rows import Row
from launch.sweep.variables import in_words

EXPLAINED = """\
rep: the repetition, which raises the seed. step: milliseconds of the slowest rank, percentiles over
the n measured steps. plan: the step that the planner predicts, ms. link: megabytes per second that
the busiest rank sends and receives, over TCP, no headers. busy: processor time over time and
threads, mean of the ranks. memory: the largest rank's peak. -: not known here."""
"""What the columns of the table mean."""
EFFICIENCY = """\
efficiency (of scaling): samples per second of a rank, over those of a rank in the smallest world
that has run with all else the same. With a batch of a fixed size over all ranks it is that of
strong scaling, with a batch of a fixed size for every rank that of weak scaling."""
"""What the efficiency in the comparison means."""
FIGURES = (
    # name in Row, title, factor, width, format
    ("samples_per_s", "samples/s", 1, 11, ",.1f"),
    ("step_s", "step p50", 1e3, 10, ".2f"),
    ("step_p90_s", "p90", 1e3, 9, ".2f"),
    ("step_p99_s", "p99", 1e3, 9, ".2f"),
    ("measured_steps", "n", 1, 6, "d"),
    ("predicted_step_s", "plan", 1e3, 9, ".2f"),
    ("sent_bytes_per_s", "link MB/s out", 1e-6, 15, ".2f"),
    ("received_bytes_per_s", "in", 1e-6, 8, ".2f"),
    ("utilisation", "busy", 1, 6, ".0%"),
    ("peak_memory_bytes", "memory MB", 1e-6, 11, ".0f"),
)
"""The figures of a line."""


class Table:
    """The lines of a sweep that varies some things."""

    def __init__(self, values: Mapping[str, Sequence[Any]]) -> None:
        """Make the columns as wide as the words in them.

        Args:
            values: all values of every variable, by its name.
        """
        self._widths = {
            name: max(map(len, [name, *map(in_words, of_name)])) + 2
            for name, of_name in values.items()
        }

    def header(self) -> str:
        """Write the first line, with the names of the columns."""
        names = "".join(f"{name:>{width}}" for name, width in self._widths.items())
        figures = "".join(f"{title:>{width}}" for _, title, _, width, _ in FIGURES)
        return f"{'tier':<9}{names}{'rep':>5}{figures}"

    def line(self, row: Row) -> str:
        """Write a point as a line: its figures, or why it has none."""
        start = self._start(row.point.tier, row.point.values) + f"{row.point.repetition:>5}"
        if row.error:
            return f"{start}  {row.error}"
        return start + "".join(
            _cell(getattr(row, name), factor, width, form)
            for name, _, factor, width, form in FIGURES
        )

    def comparison(self, groups: Sequence[Group], baseline: str) -> str:
        """Write the medians over the repetitions: throughput, speed-up, scaling efficiency."""
        lines = []
        for group in groups:
            parts = [f"{in_short(group.samples_per_s, ',.1f')} samples/s"]
            if group.speed_ups:
                parts.append(f"{in_short(group.speed_ups, '.3f')} x {baseline}")
            if group.efficiencies:
                parts.append(f"efficiency {in_short(group.efficiencies, '.0%')}")
            parts.append(f"n={len(group.samples_per_s)}")
            lines.append(f"{self._start(group.tier, group.values)}  {', '.join(parts)}")
        return "\n".join(lines)

    def _start(self, tier: str, values: Mapping[str, Any]) -> str:
        """The tier and the values at the beginning of a line."""
        cells = [f"{in_words(values[name]):>{width}}" for name, width in self._widths.items()]
        return f"{tier:<9}{''.join(cells)}"


def _cell(value: Any, factor: float, width: int, form: str) -> str:
    """A figure times a factor as a cell of the table; a dash if it is not known."""
    return f"{'-' if value is None else format(value * factor, form):>{width}}"

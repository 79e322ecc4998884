"""What the verification experiment measured, to be drawn and judged."""

from collections.abc import Mapping
from dataclasses import dataclass

from speculative.bench import Row
from systems import schema
from systems.figures.experiment import Results

COPY = "copy-bandwidth"
"""The case that has the bandwidth of a copy; all others have rows."""


@dataclass(frozen=True)
class Timed:
    """The times of all methods over the grid, and the bandwidth of a copy."""

    copy_bytes_per_s: float
    rows: Mapping[tuple[str, int, int], Row]
    """The rows by method, V and gamma."""

    def speedup(
        self, method: str, vocabulary: int, gamma: int, over: str = "transformers"
    ) -> float:
        """Median time of `over` by median time of `method`."""
        ours, theirs = (self.rows[name, vocabulary, gamma] for name in (method, over))
        return theirs.call_s.median / ours.call_s.median

    def grid(self) -> list[tuple[int, int]]:
        """Every V with every gamma."""
        return [point[1:] for point in self.rows if point[0] == "transformers"]


def read(results: Results) -> Timed:
    """Measured rows from what `measure` returned."""
    cases = {name: rows for name, rows in results.items() if name != COPY}
    rows = [schema.read(Row, dict(r), name) for name, rows in cases.items() for r in rows]
    by_point = {(row.method, row.case.vocabulary, row.case.gamma): row for row in rows}
    return Timed(results[COPY][0]["bytes_per_s"], by_point)

"""The order of the rows that a user gave, beside the sorted order in which layers work.

Kernel maps number voxels in the order of their keys. Users number them as their labels are. A
tensor's features stay in the user's order: layers that look at neighbours sort them on their way in
and put them back on their way out. Rows that came sorted are not moved at all.

    given rows (G)       features (N)        rows in the order of the keys (N)
      c  a  b  a   --->   c  a  b     --->    a  b  c
                 order             sorting
           (the second a is merged into the first)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparsepipe.engine.coordinates import distinct


@dataclass(frozen=True, eq=False)
class RowOrder:
    """How to get from the G given rows to the N rows of a tensor's features, and from these to the
    sorted rows. G is larger than N where duplicates were merged or rows were pruned."""

    order: Tensor
    """int64 [N], ascending: the given row that each row of the features is. For merged duplicates
    it is the first of them."""
    inverse: Tensor | None
    """int64 [G]: the row of the features that each given row is, or was merged into. None after
    pruning, since some given rows are then in no row of the features."""
    sorting: Tensor | None
    """int64 [N]: features[sorting] are in the order of the keys. None where the features are so
    already."""

    @cached_property
    def _unsorting(self) -> Tensor | None:
        """The inverse of `sorting`."""
        return None if self.sorting is None else self.sorting.argsort()

    def sorted(self, features: Tensor) -> Tensor:
        """Bring features [N, C] into the order of the keys, differentiably."""
        return features if self.sorting is None else features.index_select(0, self.sorting)

    def unsorted(self, rows: Tensor) -> Tensor:
        """Bring rows [N, C] from the order of the keys into that of the features; it undoes
        `sorted`."""
        return rows if self._unsorting is None else rows.index_select(0, self._unsorting)

    def moved(self, move: Callable[[Tensor], Tensor]) -> "RowOrder":
        """The order with its tensors where a function moves them."""
        order = move(self.order)
        inverse = order if self.inverse is self.order else _moved(self.inverse, move)
        return RowOrder(order, inverse, _moved(self.sorting, move))

    def kept(self, mask: Tensor, sorting: Tensor | None) -> "RowOrder":
        """The order of the rows that are left when those where `mask`, bool [N], is false are
        dropped. `sorting` brings what is left into the order of the keys."""
        return RowOrder(self.order[mask], None, sorting)


def _moved(tensor: Tensor | None, move: Callable[[Tensor], Tensor]) -> Tensor | None:
    return None if tensor is None else move(tensor)


def row_order(given_keys: Tensor, rows: Tensor | None = None) -> tuple[Tensor, RowOrder]:
    """Sort the keys of given rows, int64 [G], in any order and with duplicates. Where they are
    known to be sorted and distinct, `rows` are 0, 1, ..., int64 [G].

    Returns:
        The distinct keys, int64 [N], sorted; and the order of the rows.
    """
    if rows is None and bool((given_keys[1:] > given_keys[:-1]).all()):
        rows = torch.arange(len(given_keys), device=given_keys.device)
    if rows is not None:
        return given_keys, RowOrder(rows, rows, None)
    keys, first_rows, places = distinct(given_keys)
    # The features' rows are the first rows of all voxels, in the order in which they were given.
    order, voxels = first_rows.sort()
    sorting = voxels.argsort()
    return keys, RowOrder(order, sorting[places], sorting)

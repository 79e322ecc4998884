"""The order of the rows that a user gave; layers work in sorted order.

Kernel maps number voxels in the order of their keys. Users number them as their labels are. A
tensor's features stay in the user's order, and layers that look at neighbours sort them on their
way in and put them back on their way out. Rows that came sorted are not moved at all.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparsepipe.engine.coordinates import distinct


@dataclass(frozen=True, eq=False)
class RowOrder:
    """N rows of features, made of G >= N given rows; more than N where duplicates were merged or
    rows were pruned."""

    order: Tensor
    """int64 [N], ascending: the given row that each row of the features is, or came from first."""
    inverse: Tensor | None
    """int64 [G]: the row of the features that each given row is, or went into; None after pruning,
    where some given rows are in no row of the features."""
    sorting: Tensor | None
    """int64 [N]: features[sorting] are in the order of the keys; None where the features are."""

    @cached_property
    def _unsorting(self) -> Tensor | None:
        return None if self.sorting is None else self.sorting.argsort()

    def sorted(self, features: Tensor) -> Tensor:
        """Rows in the order of the keys, differentiably."""
        return features if self.sorting is None else features.index_select(0, self.sorting)

    def unsorted(self, rows: Tensor) -> Tensor:
        """Rows in the order of the keys in the order of the features: undoes `sorted`."""
        return rows if self._unsorting is None else rows.index_select(0, self._unsorting)

    def to(self, device: torch.device) -> "RowOrder":
        """The same on a device."""
        sorting = None if self.sorting is None else self.sorting.to(device)
        inverse = None if self.inverse is None else self.inverse.to(device)
        return RowOrder(self.order.to(device), inverse, sorting)

    def kept(self, mask: Tensor, sorting: Tensor | None) -> "RowOrder":
        """The order of those rows for which `mask`, bool [N], is true; `sorting` sorts them."""
        return RowOrder(self.order[mask], None, sorting)


def row_order(given: Tensor) -> tuple[Tensor, RowOrder]:
    """Sorted distinct keys, int64 [N], of given ones, int64 [G], and the order of their rows."""
    if bool((given[1:] > given[:-1]).all()):
        rows = torch.arange(len(given), device=given.device)
        return given, RowOrder(rows, rows, None)
    keys, index, places = distinct(given)
    order, voxels = index.sort()
    sorting = voxels.argsort()
    return keys, RowOrder(order, sorting[places], sorting)

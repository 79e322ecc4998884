"""The fractional bound: a step time that no plan on these devices can beat.

It drops all constraints but one: every layer must be computed. Each layer may be divided at will
among the devices, nothing is communicated, and memory is no limit; the device that is done last
decides. That is a linear programme. Interchangeable devices take equal parts, so it has a variable
for each class of devices and each layer:

    layer       0     1     2     3          x[c, l]: the part that one device of class c takes
    fast GPUs  .30   .30   .10   .00
    slow GPUs  .20   .20   .40   .50         with 2 of each, every column sums to 1
"""

import numpy as np

from sparsepipe.planner.costs import Costs


def fractional_bound(costs: Costs) -> float:
    """The bound, in seconds per mini-batch.

    Find the smallest T and the parts x[c, l] >= 0 such that
    - no device is busy for longer: sum over l of x[c, l] time[c, l] <= T for every class c,
    - every layer is computed: sum over c of devices[c] x[c, l] = 1 for every layer l.
    """
    # SciPy is slow to import, so it is imported only where it is used.
    from scipy.optimize import linprog  # type: ignore[import-untyped]
    from scipy.sparse import block_diag, csr_matrix, hstack  # type: ignore[import-untyped]

    classes, layers = len(costs.classes), costs.layers
    busy = block_diag([row[None] for row in costs.layer_s])
    devices = np.array([len(group.ranks) for group in costs.classes], dtype=float)
    whole = csr_matrix(np.kron(devices, np.eye(layers)))
    solved = linprog(
        c=np.append(np.zeros(classes * layers), 1.0),
        A_ub=hstack([busy, -np.ones((classes, 1))]),
        b_ub=np.zeros(classes),
        A_eq=hstack([whole, csr_matrix((layers, 1))]),
        b_eq=np.ones(layers),
    )
    return float(solved.fun)

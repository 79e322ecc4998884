"""The fractional bound: no plan on these devices can be faster.

Layers are divided at will among the devices, nothing is communicated, memory is no limit; the
device that is done last decides. A linear programme, solved for classes: equal devices take equal
parts.
"""

import numpy as np

from sparsepipe.planner.costs import Costs


def fractional_bound(costs: Costs) -> float:
    """Seconds per mini-batch.

    Variables x[c, l], the part of layer l that one device of class c takes, and T. Least T with
    sum over l of x[c, l] time[c, l] <= T for every c, sum over c of devices[c] x[c, l] = 1 for
    every l.
    """
    # Slow to import, so only where it is used.
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

"""Writes golden.npz: what MinkowskiEngine computes in float64, for machines without it.

make minkowski && .venv/bin/python -m tests.sparsepipe.minkowski.make_golden
"""

from pathlib import Path

import numpy as np

from sparsepipe.engine.backends import backend
from tests.sparsepipe.minkowski.cases import CASES

TARGET = Path(__file__).parent / "golden.npz"


def main() -> None:
    """Write all cases."""
    backend("minkowski")  # imports it in the way that it needs
    import MinkowskiEngine as ME

    arrays: dict[str, np.ndarray] = {}
    for name, case in CASES.items():
        arrays |= {f"{name}/{key}": value.numpy() for key, value in case.run(ME).items()}
        print(name, flush=True)
    np.savez_compressed(TARGET, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

"""mpi4py, which carries the messages of `--transport mpi`: imported in one place."""

from typing import Any

from systems.schema import InputError


def import_mpi() -> Any:
    """Import mpi4py's module MPI.

    Raises:
        InputError: mpi4py or an MPI library is missing.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"--transport mpi: {error}; install it with: pip install 'systems-testbed[mpi]'"
        ) from None
    return MPI

"""What `testbed doctor` looks for on behalf of SparsePipe."""

from sparsepipe.engine.backends import INSTALL, backend
from sparsepipe.names import BACKENDS
from systems.finding import Finding, extra
from systems.schema import InputError


def checks() -> list[Finding]:
    """The backends of the sparse engine, and what reads other files."""
    return [*map(_backend, BACKENDS), extra("h5py", "h5py", "ModelNet40 in HDF5")]


def _backend(name: str) -> Finding:
    """Whether a backend of the sparse engine loads."""
    try:
        backend(name)
        reason = None
    except InputError as error:
        reason = str(error).partition(": ")[2]
    return Finding(
        name=f"sparse backend {name}",
        works=reason is None,
        found=reason or "loads",
        needed_for=f"--sparsepipe.backend {name}",
        command=INSTALL.get(name, ""),
    )

"""`launch doctor`: what this machine has, what it lacks, and what that means for the testbed.

python -m launch doctor --clean     # end what a killed emulation has left
"""

import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Sequence

import torch

from launch.backends import find_mpirun
from launch.ownership import PACKAGES, foreign_packages
from sparsepipe.backends import BACKENDS, backend
from stanza.plan import shipped_profiles
from systems import cluster, record
from systems.emulate import clean, leftovers
from systems.namespaces import unavailable
from systems.schema import InputError
from systems.transport import tcp_bytes

EXTRAS = {
    "mpi4py": ("mpi", "the mpi transport"),
    "deepspeed": ("deepspeed", "DeepSpeed baselines"),
    "transformers": ("speculative", "speculative sampling on real models"),
}


def main(arguments: Sequence[str]) -> None:
    """Print one line a finding; exit code 1 if something needed is broken."""
    if arguments == ["--clean"]:
        print(f"{clean()} processes of emulated clusters were left over, and are ended")
        return
    if arguments:
        raise InputError(f"doctor {arguments[0]}: takes no arguments but --clean")
    broken = False
    for check in (_python, _torch, *(_own_package(name) for name in PACKAGES)):
        ok, text = check()
        broken |= not ok
        print(f"{'ok' if ok else 'BAD':5}{text}")
    here = (_gpus, _mpirun, _compiler, _emulation, _tcp)
    for check in (*here, *map(_backend, BACKENDS), *map(_extra, EXTRAS)):
        ok, text = check()
        print(f"{'ok' if ok else '-':5}{text}")
    print(f"     clusters: {', '.join(cluster.presets())}")
    print(f"     measured profiles: {', '.join(shipped_profiles())}")
    if broken:
        raise SystemExit(1)


Check = Callable[[], tuple[bool, str]]


def _python() -> tuple[bool, str]:
    version = sys.version.split()[0]
    return sys.version_info >= (3, 11), f"python {version} (needs 3.11)"


def _torch() -> tuple[bool, str]:
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    here = record.environment()
    text = f"torch {torch.__version__} (needs 2.6) on {here['processor']}, {here['cores']} cores"
    return (major, minor) >= (2, 6), text


def _own_package(name: str) -> Check:
    """Whether `name` is ours: PyPI has foreign packages called stanza, launch and systems."""

    def check() -> tuple[bool, str]:
        origin = foreign_packages().get(name)
        if origin is None:
            return True, f"package {name} is this testbed's"
        return False, f"package {name} is a foreign one from {origin}; pip uninstall {name}"

    return check


def _gpus() -> tuple[bool, str]:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return bool(names), f"GPUs: {', '.join(names) or 'none, everything runs on the CPU over gloo'}"


def _mpirun() -> tuple[bool, str]:
    path = find_mpirun()
    return path is not None, f"mpirun: {path or 'none; pip install systems-testbed[mpi]'}"


def _compiler() -> tuple[bool, str]:
    found = {name: shutil.which(name) for name in ("g++", "nvcc")}
    text = ", ".join(f"{name} {path or 'none'}" for name, path in found.items())
    return found["g++"] is not None, f"compilers: {text}"


def _emulation() -> tuple[bool, str]:
    reason = unavailable()
    left = len(leftovers())
    text = f"emulated clusters: {reason or 'network namespaces work'}"
    return (
        reason is None,
        f"{text}; {left} processes left over, --clean ends them" if left else text,
    )


def _tcp() -> tuple[bool, str]:
    counts = tcp_bytes() is not None
    return counts, f"bytes counted by the kernel (TCP_INFO): {'yes' if counts else 'not here'}"


def _backend(name: str) -> Check:
    def check() -> tuple[bool, str]:
        try:
            backend(name)
        except InputError as error:
            return False, f"sparse {error}"
        return True, f"sparse backend {name!r} works"

    return check


def _extra(name: str) -> Check:
    def check() -> tuple[bool, str]:
        extra, purpose = EXTRAS[name]
        try:
            return True, f"{name} {importlib.metadata.version(name)}: {purpose}"
        except importlib.metadata.PackageNotFoundError:
            return False, f"{name} none ({purpose}); pip install 'systems-testbed[{extra}]'"

    return check

"""The checks of `testbed doctor` on a machine where the base packages are installed."""

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from launch import installed
from launch.launchers.start import find_mpirun
from systems import by_path
from systems.build import CacheError, cache_folder
from systems.clusters import cluster
from systems.environment import own_address
from systems.finding import Finding, extra, program
from systems.network import emulate
from systems.network.emulate import leftovers
from systems.network.namespaces import unavailable
from systems.network.tcp import tcp_bytes
from systems.processes import core_shares
from systems.runs import provenance
from systems.schema import InputError

__all__ = ["all_checks", "clean"]

LEAST_WORK_BYTES, LEAST_CACHE_BYTES = 2**30, 2**26
"""How much space must be free for records and for compiled kernels."""
GIBIBYTE = 2**30
"""Bytes."""
INSTALL_MPI = "python -m pip install 'systems-testbed[mpi]'"
MPI_PROGRAM = "from mpi4py import MPI; print(MPI.Get_library_version().splitlines()[0])"


def all_checks() -> list[Finding]:
    """Make all findings beyond those about the base packages."""
    return [
        _torch(),
        _processor(),
        _gpus(),
        _disk("working folder", Path.cwd(), LEAST_WORK_BYTES, "records of runs", required=True),
        _kernel_cache(),
        _own_name(),
        _gxx(),
        _mpirun(),
        _mpi4py(),
        _sbatch(),
        _emulation(),
        _core_shares(),
        _tcp(),
        extra("deepspeed", "deepspeed", "DeepSpeed's launcher and baselines"),
        extra("tensorboard", "tensorboard", "--tensorboard"),
        _clusters(),
        *_of_systems(),
    ]


def _torch() -> Finding:
    """Find out whether torch is new enough."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return Finding(
        name="torch",
        works=(major, minor) >= (2, 6),
        found=f"{torch.__version__}, {torch.get_num_threads()} threads",
        needed_for="everything, 2.6 or newer",
        command="python -m pip install 'torch>=2.6'",
        required=True,
    )


def _processor() -> Finding:
    """Find out which processor this machine has."""
    here = provenance.environment()
    return Finding(
        name="processor",
        works=True,
        found=f"{here['processor']}, {here['cores']} cores",
        needed_for="everything",
    )


def _gpus() -> Finding:
    """Find out which GPUs torch can use."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    driver = shutil.which("nvidia-smi") is not None
    here, command = f"{', '.join(names)}; CUDA {torch.version.cuda}", ""
    if not names:
        here = "no GPU here, everything runs on the CPU over gloo"
    if not names and driver:
        here = f"a driver, but no GPU that torch {torch.__version__} (CUDA: {torch.version.cuda}) "
        here += "can use"
        command = "python -m pip install --force-reinstall torch"
    return Finding(
        name="CUDA",
        works=bool(names),
        found=here,
        needed_for="NCCL and the CUDA kernels",
        command=command,
    )


def _disk(
    name: str, folder: Path, least_bytes: int, needed_for: str, *, required: bool = False
) -> Finding:
    """Find out whether the disk of a folder has enough space, and whether files can be written
    there. The folder itself need not exist yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free_bytes, writable = shutil.disk_usage(there).free, os.access(there, os.W_OK)
    free = f"{free_bytes / GIBIBYTE:.1f} GiB free in {folder}"
    command = f"free {least_bytes / GIBIBYTE:.2g} GiB"
    if name == "kernel cache":
        command += ", or set TESTBED_CACHE to another folder"
    return Finding(
        name=name,
        works=writable and free_bytes >= least_bytes,
        found=free if writable else f"{folder} cannot be written",
        needed_for=needed_for,
        command=command if writable else f"chmod u+w {there}",
        required=required,
    )


def _kernel_cache() -> Finding:
    """Find out whether compiled kernels can be kept."""
    needed_for = "kernels built on first use"
    try:
        return _disk("kernel cache", cache_folder(), LEAST_CACHE_BYTES, needed_for)
    except CacheError as error:
        return Finding(
            name="kernel cache",
            works=False,
            found=str(error),
            needed_for=needed_for,
            command="export TESTBED_CACHE=FOLDER",
        )


def _own_name() -> Finding:
    """Find out whether the name of this machine resolves.

    Nodes tell each other the address of their own name, which must not be a loopback address. Runs
    on one machine do without, but torchrun itself waits ten minutes for the name to resolve.
    """
    name, address = socket.gethostname(), own_address()
    answer, here = f"{name} does not resolve", False
    if address is not None:
        here = ipaddress.ip_address(address).is_loopback
        answer = f"{name} resolves to {address}"
    if here:
        answer += ", which other nodes cannot reach; enough on one machine"
    return Finding(
        name="own name",
        works=address is not None,
        found=answer,
        needed_for="runs over several nodes, and torchrun started without launch",
        command=f"echo ADDRESS-OF-THIS-NODE {name} | sudo tee -a /etc/hosts",
    )


def _gxx() -> Finding:
    """Find out whether there is a C++ compiler."""
    return program(
        "g++",
        os.environ.get("CXX") or shutil.which("g++"),
        needed_for="our kernels on CPUs (PyTorch's operators do the same, slower)",
        command="apt-get install g++",
    )


def _mpirun() -> Finding:
    """Find out whether there is mpirun."""
    return program("mpirun", find_mpirun(), needed_for="--launcher mpirun", command=INSTALL_MPI)


def _mpi4py() -> Finding:
    """Find out whether mpi4py loads. A process of its own tries it: MPI that does not start may end
    the process."""
    done = subprocess.run([sys.executable, "-c", MPI_PROGRAM], capture_output=True, text=True)
    output = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return Finding(
        name="mpi4py",
        works=done.returncode == 0,
        found=output[-1].strip("\0 ") if output else f"ended with code {done.returncode}",
        needed_for="--transport mpi",
        command=INSTALL_MPI,
    )


def _sbatch() -> Finding:
    """Find out whether SLURM is here."""
    return program(
        "sbatch",
        shutil.which("sbatch"),
        needed_for="submitting what --launcher slurm writes",
        command="run `testbed run --launcher slurm` on a machine of the cluster",
    )


def _emulation() -> Finding:
    """Find out whether clusters can be emulated, and whether earlier ones have left processes."""
    reason, left = unavailable(), len(leftovers())
    obstacle = f"{left} processes of killed clusters are left over" if left else ""
    command = "python -m launch doctor --clean" if left else ""
    if reason is not None:
        obstacle = reason
        command = "" if "Linux" in reason else "run as root"
        if "iproute2" in reason:
            command = "apt-get install iproute2 util-linux"
    return Finding(
        name="emulated clusters",
        works=not obstacle,
        found=obstacle or "root, iproute2 and network namespaces are here",
        needed_for="testbed emulate, testbed run --shape",
        command=command,
    )


def clean() -> tuple[int, int]:
    """End what is left of clusters that were killed; returns how many processes were ended and how
    many control groups were removed."""
    return emulate.clean(), core_shares.clean(core_shares.PATIENCE_S)


def _core_shares() -> Finding:
    """Find out whether ranks can be held to shares of a core, and whether killed runs have left
    groups."""
    reason, here, left = core_shares.unavailable(), core_shares.hierarchy(), core_shares.leftovers()
    if reason is None and here is not None:
        state = f"cgroup v{here.version} at {here.folder}"
    else:
        state = f"{reason}; links alone are shaped"
    if left:
        state = f"{len(left)} control groups of killed runs are left over"
    return Finding(
        name="shares of a core",
        works=reason is None and not left,
        found=state,
        needed_for="testbed run --shape, with core_share in the cluster",
        command="python -m launch doctor --clean" if left else "run as root",
    )


def _tcp() -> Finding:
    """Find out whether the kernel counts the bytes of TCP connections."""
    return Finding(
        name="TCP_INFO",
        works=tcp_bytes() is not None,
        found="the kernel counts bytes" if tcp_bytes() else "the kernel does not count bytes",
        needed_for="bytes on the wire in results (Linux tells them)",
    )


def _clusters() -> Finding:
    """List the clusters that ship with the testbed."""
    names = ", ".join(cluster.presets())
    return Finding(name="clusters", works=True, found=names, needed_for="plans")


def _of_systems() -> Iterator[Finding]:
    """Check that every installed system can be imported, and make the findings of its own."""
    for name in installed.names():
        try:
            system = installed.system(name)
            yield Finding(
                name=f"system {name}",
                works=True,
                found=" and ".join(installed.offered()[name]),
                needed_for=f"--system {name}",
            )
            if system.doctor:
                yield from by_path.load(system.doctor, f"system {name}: its doctor")()
        except InputError as error:
            yield Finding(
                name=f"system {name}",
                works=False,
                found=str(error).partition(": ")[2],
                needed_for=f"--system {name}",
                command="install its package again, or uninstall it",
            )

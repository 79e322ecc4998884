"""SLURM: a script that starts one torchrun agent a node, handed to sbatch.

python -m launch run JOB.toml --launcher slurm --slurm.nodes 2 --slurm.options partition=gpu time=30
"""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from systems.schema import InputError

SCRIPT = "slurm.sh"
"""Of a record."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a job asks of SLURM."""

    nodes: int = 1
    """Over which the ranks are spread evenly."""
    options: tuple[str, ...] = ()
    """More of sbatch's long options, without dashes: partition=gpu time=30 gres=gpu:4."""

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise InputError(f"--slurm.nodes {self.nodes}: give 1 or more")
        for option in self.options:
            if not re.fullmatch(r"[a-z][a-z-]+(=\S+)?", option):
                raise InputError(
                    f"--slurm.options {option}: no long option of sbatch; write it without "
                    "dashes, such as partition=gpu"
                )


def ranks_per_node(options: Options, world_size: int) -> int:
    """How many ranks a node runs.

    Raises:
        InputError: the ranks cannot be spread evenly.
    """
    if world_size % options.nodes:
        raise InputError(
            f"--slurm.nodes {options.nodes}: {world_size} ranks cannot be spread evenly over them; "
            "give a --world-size that is a multiple"
        )
    return world_size // options.nodes


def write_script(
    options: Options, name: str, world_size: int, folder: Path, max_restarts: int = 0
) -> Path:
    """The record's script: it runs the record's job when SLURM gives it nodes that see `folder`."""
    ranks, where = ranks_per_node(options, world_size), folder.absolute()
    directives = [
        f"job-name={shlex.quote(name)}",
        f"nodes={options.nodes}",
        "ntasks-per-node=1",
        f"output={shlex.quote(str(where))}/slurm-%j.out",
        *options.options,
    ]
    path = where / SCRIPT
    path.write_text(
        "\n".join(
            [
                "#!/usr/bin/env bash",
                *(f"#SBATCH --{directive}" for directive in directives),
                "set -euo pipefail",
                'MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)"',
                f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{_threads(ranks)}}}"',
                f"srun --kill-on-bad-exit=1 {shlex.quote(sys.executable)} \\",
                f"    -m launch.torchrun --nnodes {options.nodes} --max-restarts {max_restarts} \\",
                f'    --nproc-per-node {ranks} --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d \\',
                '    --rdzv-endpoint "$MASTER_ADDR:$((20000 + SLURM_JOB_ID % 20000))" \\',
                f"    -m launch worker --records {shlex.quote(str(where))}",
                "",
            ]
        )
    )
    path.chmod(0o755)
    return path


def _threads(ranks: int) -> str:
    """In bash: the cores that SLURM gives on a node, shared out; 1 where it does not say."""
    return f"$((SLURM_CPUS_ON_NODE > {ranks} ? SLURM_CPUS_ON_NODE / {ranks} : 1))"


def submit(script: Path) -> str:
    """Hand the script to sbatch; returns what it says.

    Raises:
        InputError: no sbatch here, or it refuses the script, which stays.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise InputError(
            f"--launcher slurm: no sbatch on PATH; the script is written, submit it on a machine "
            f"of the cluster: sbatch {script}"
        )
    done = subprocess.run([sbatch, str(script)], capture_output=True, text=True)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise InputError(f"--launcher slurm: sbatch refuses {script}: {said}")
    return done.stdout.strip()

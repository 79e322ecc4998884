"""Writes a script that starts one agent of torchrun on every node, and hands it to sbatch.

python -m launch run JOB.toml --launcher slurm --slurm.nodes 2 --slurm.options partition=gpu time=30
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from systems.job import SlurmOptions
from systems.schema import InputError

SCRIPT = "slurm.sh"
"""The name of the script in a record."""


def ranks_per_node(options: SlurmOptions, world_size: int) -> int:
    """The number of ranks on every node.

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
    options: SlurmOptions, name: str, world_size: int, folder: Path, max_restarts: int = 0
) -> Path:
    """Write a script into the record `folder`; returns its path. The script runs the job of the
    record as soon as SLURM gives it nodes. They must all see the folder."""
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
                "    -m launch.launchers.torchrun \\",
                f"    --nnodes {options.nodes} --max-restarts {max_restarts} \\",
                f'    --nproc-per-node {ranks} --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d \\',
                '    --rdzv-endpoint "$MASTER_ADDR:$((20000 + SLURM_JOB_ID % 12000))" \\',
                f"    -m launch worker --records {shlex.quote(str(where))}",
                "",
            ]
        )
    )
    path.chmod(0o755)
    return path


def _threads(ranks: int) -> str:
    """The threads of a rank, as an expression of bash: the cores that SLURM grants on a node,
    divided among its ranks; 1 where SLURM does not say."""
    return f"$((SLURM_CPUS_ON_NODE > {ranks} ? SLURM_CPUS_ON_NODE / {ranks} : 1))"


def submit(script: Path) -> str:
    """Hand the script to sbatch; returns what sbatch answers.

    Raises:
        InputError: there is no sbatch here, or it refuses the script. The script stays.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise InputError(
            f"--launcher slurm: no sbatch on PATH; the script is written, submit it on a machine "
            f"of the cluster: sbatch {script}"
        )
    done = subprocess.run([sbatch, str(script)], capture_output=True, text=True)
    if done.returncode:
        answer = " ".join((done.stderr or done.stdout).split())
        raise InputError(f"--launcher slurm: sbatch refuses {script}: {answer}")
    return done.stdout.strip()

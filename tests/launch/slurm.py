"""A SLURM of one machine for tests: sbatch runs the script at once, srun a copy of its command for
every node."""

import random
import socket
from contextlib import suppress
from pathlib import Path

from systems.environment import SLURM_PORTS

COMMANDS = {
    "sbatch": """#!/usr/bin/env bash
set -euo pipefail
nodes=$(sed -n 's/^#SBATCH --nodes=//p' "${@: -1:1}" || true)
while [[ "${1:-}" == --* ]]; do
    [[ "$1" == --nodes ]] && nodes=$2
    shift 2
done
export SLURM_JOB_ID=JOB_ID SLURM_JOB_NODELIST='node[0-1]' SLURM_JOB_NUM_NODES=${nodes:-1}
export SLURM_CPUS_ON_NODE=1
bash "$@" >&2
echo "Submitted batch job $SLURM_JOB_ID"
""",
    "srun": """#!/usr/bin/env bash
set -uo pipefail
[[ "$1" == --kill-on-bad-exit=1 ]] && shift
tasks=()
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
    SLURM_PROCID=$node SLURM_NTASKS=$SLURM_JOB_NUM_NODES SLURM_LOCALID=0 "$@" &
    tasks+=($!)
done
code=0
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit $code
""",
    "scontrol": """#!/usr/bin/env bash
[[ "$*" == 'show hostnames node[0-1]' ]] && printf 'localhost\\nlocalhost\\n'
""",
}


def install(folder: Path) -> tuple[str, int]:
    """Write the commands into a new folder, to be put on PATH; returns it, and the number of the
    job that is submitted, whose port is free."""
    folder.mkdir()
    job_id = _free_port() - SLURM_PORTS.start
    for name, text in COMMANDS.items():
        (folder / name).write_text(text.replace("JOB_ID=JOB_ID", f"JOB_ID={job_id}"))
        (folder / name).chmod(0o755)
    return str(folder), job_id


def _free_port() -> int:
    """One of the ports of jobs at which nothing listens."""
    while True:
        with suppress(OSError), socket.create_server(("", random.choice(SLURM_PORTS))) as server:
            return int(server.getsockname()[1])

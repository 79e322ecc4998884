"""A SLURM of one machine for tests: sbatch runs the script at once, srun a copy of its command for
every node."""

from pathlib import Path

JOB_ID = 4711
COMMANDS = {
    "sbatch": """#!/usr/bin/env bash
set -euo pipefail
nodes=$(sed -n 's/^#SBATCH --nodes=//p' "${@: -1:1}" || true)
while [[ "${1:-}" == --* ]]; do
    [[ "$1" == --nodes ]] && nodes=$2
    shift 2
done
export SLURM_JOB_ID=4711 SLURM_JOB_NODELIST='node[0-1]' SLURM_JOB_NUM_NODES=${nodes:-1}
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


def install(folder: Path) -> str:
    """Write the commands into a new folder; returns it, to be put on PATH."""
    folder.mkdir()
    for name, text in COMMANDS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return str(folder)

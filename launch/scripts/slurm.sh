#!/usr/bin/env bash
#SBATCH --ntasks-per-node=1
# Runs one of the other scripts as a batch job, with an agent of torchrun on every node. It passes on
# JOB, NPROC and LOG_RANK.
#   NPROC=4 sbatch --nodes 2 launch/scripts/slurm.sh launch/scripts/stanza.sh --stanza.steps 50
set -euo pipefail
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)"
export MASTER_ADDR MASTER_PORT="$((20000 + SLURM_JOB_ID % 12000))"
export NNODES="$SLURM_JOB_NUM_NODES" RUN_ID="$SLURM_JOB_ID"
srun --kill-on-bad-exit=1 "$@"

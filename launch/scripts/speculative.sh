#!/usr/bin/env bash
# Speculative sampling on spoken digits; it runs in one process, of one node.
#   python -m launch train-pair transcribe
#   launch/scripts/speculative.sh --speculative.method sigmoid
#   sbatch launch/scripts/slurm.sh launch/scripts/speculative.sh
set -euo pipefail
port=0 # a free one
[[ "${NNODES:-1}" == 1 ]] || port=29500
exec python -m launch.launchers.torchrun --nnodes "${NNODES:-1}" --nproc-per-node "${NPROC:-1}" \
    --rdzv-backend c10d --rdzv-id "${RUN_ID:-speculative}" \
    --rdzv-endpoint "${MASTER_ADDR:-localhost}:${MASTER_PORT:-$port}" \
    ${LOG_RANK:+--local-ranks-filter "$LOG_RANK"} \
    -m launch worker "${JOB:-$(dirname "$0")/../jobs/transcribe.toml}" "$@"

#!/usr/bin/env bash
# SparsePipe's pipeline on generated shapes: NPROC ranks on each of NNODES nodes.
#   launch/scripts/sparsepipe.sh --sparsepipe.steps 50
#   NNODES=2 MASTER_ADDR=node0 launch/scripts/sparsepipe.sh          # on each of two nodes
#   sbatch --nodes 2 launch/scripts/slurm.sh launch/scripts/sparsepipe.sh
set -euo pipefail
port=0 # a free one
[[ "${NNODES:-1}" == 1 ]] || port=29500
exec python -m launch.launchers.torchrun --nnodes "${NNODES:-1}" --nproc-per-node "${NPROC:-4}" \
    --rdzv-backend c10d --rdzv-id "${RUN_ID:-sparsepipe}" \
    --rdzv-endpoint "${MASTER_ADDR:-localhost}:${MASTER_PORT:-$port}" \
    ${LOG_RANK:+--local-ranks-filter "$LOG_RANK"} \
    -m launch worker "${JOB:-$(dirname "$0")/../jobs/sparsepipe-shapes.toml}" "$@"

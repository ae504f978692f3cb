#!/usr/bin/env bash
# Train on several GPUs (or CPU processes) of one machine or of many:
#   bash tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# Several machines: the same command on each, with NNODES, NODE_RANK,
# MASTER_ADDR and PORT set.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
config=$1
processes=$2
shift 2

if [ "${NNODES:-1}" -gt 1 ]; then
    where=(--nnodes "$NNODES" --node_rank "${NODE_RANK:?}"
           --master_addr "${MASTER_ADDR:?}" --master_port "${PORT:-29500}")
else
    # A free port of its own: runs beside each other do not collide.
    where=(--standalone)
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${where[@]}" \
    --nproc_per_node "$processes" "$(dirname "$0")/train.py" \
    "$config" --launcher pytorch "$@"

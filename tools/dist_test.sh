#!/usr/bin/env bash
# Test on several GPUs (or CPU processes) of one machine or of many:
#   bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# Several machines: the same command on each, with NNODES, NODE_RANK,
# MASTER_ADDR and PORT set.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT PROCESSES [options of tools/test.py]" >&2
    exit 2
fi
config=$1
checkpoint=$2
processes=$3
shift 3

if [ "${NNODES:-1}" -gt 1 ]; then
    where=(--nnodes "$NNODES" --node_rank "${NODE_RANK:?}"
           --master_addr "${MASTER_ADDR:?}" --master_port "${PORT:-29500}")
else
    # A free port of its own: runs beside each other do not collide.
    where=(--standalone)
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${where[@]}" \
    --nproc_per_node "$processes" "$(dirname "$0")/test.py" \
    "$config" "$checkpoint" --launcher pytorch "$@"

#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh share: run a tool in several processes.
#   bash tools/dist_run.sh TOOL PROCESSES [arguments of the tool]
# Several machines: the same command on each, with NNODES, NODE_RANK,
# MASTER_ADDR and PORT set.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 TOOL PROCESSES [arguments of the tool]" >&2
    exit 2
fi
tool=$1
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
    --nproc_per_node "$processes" "$(dirname "$0")/$tool" "$@" \
    --launcher pytorch

#!/usr/bin/env bash
# Train on several GPUs (or CPU processes), of many machines too; see
# dist_run.sh:
#   bash tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
config=$1
processes=$2
shift 2
exec bash "$(dirname "$0")/dist_run.sh" train.py "$processes" "$config" "$@"

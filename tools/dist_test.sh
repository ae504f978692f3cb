#!/usr/bin/env bash
# Test on several GPUs (or CPU processes), of many machines too; see
# dist_run.sh:
#   bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT PROCESSES [options of tools/test.py]" >&2
    exit 2
fi
config=$1
checkpoint=$2
processes=$3
shift 3
exec bash "$(dirname "$0")/dist_run.sh" test.py "$processes" "$config" "$checkpoint" "$@"

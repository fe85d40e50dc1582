#!/usr/bin/env bash
# Trains a byte-level Reformer on real text, saves it, reloads it and lets it write.
#     bash scripts/quickstart.sh [--corpus FILE_OR_FOLDER_OR_DATASET] [--max_minutes 30] [--help]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"
ensure_environment .venv-quickstart train
# Memory that grows less with depth under glibc (docs/costs.md).
export THP_MEM_ALLOC_ENABLE="${THP_MEM_ALLOC_ENABLE:-1}"
# Paths in the arguments are meant from where the command was given.
exec "$ENVIRONMENT_PYTHON" -m reformer_hf.quickstart "$@"

#!/usr/bin/env bash
# Runs all checks in an environment of their own. Arguments go to pytest, for example:
#     bash scripts/test.sh tests/ops -k band
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"
ensure_environment .venv-test dev,eval,quantization,sentencepiece,train,translate
cd "$REPOSITORY_ROOT"

# Two worker processes of one thread each; nothing here may talk to the Hub.
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 DISABLE_SAFETENSORS_CONVERSION=1

check() {
    echo "+ $*"
    "$ENVIRONMENT_PYTHON" -m "$@"
}
check ruff check
check ruff format --check
check pyright --pythonpath "$ENVIRONMENT_PYTHON"
# Each begins with half of the tests, in order, so that those of a file share what is made for them.
check pytest -n 2 --dist worksteal "$@"

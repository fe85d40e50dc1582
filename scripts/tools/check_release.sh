#!/usr/bin/env bash
# Builds the package, checks it as PyPI would, and tries it where nothing but the wheel is installed:
# a tiny run of the quickstart, and its model without the package (`trust_remote_code=True`).
#     bash scripts/tools/check_release.sh [FOLDER]    # which gets the built files; by default dist
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/environment.sh"
output="${1:-$REPOSITORY_ROOT/dist}"
mkdir -p "$output"
output="$(cd "$output" && pwd)"
python="$(find_python)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
export HF_HUB_OFFLINE=1 HF_HOME="$work/home"

# Makes the virtual environment NAME and installs what the other arguments say.
make_environment() {
    "$python" -m venv "$work/$1"
    "$work/$1/bin/python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$REPOSITORY_ROOT/constraints.txt" "${@:2}"
}

make_environment tools build twine
"$work/tools/bin/python" -m build --outdir "$work/dist" "$REPOSITORY_ROOT"
"$work/tools/bin/python" -m twine check --strict "$work"/dist/*

wheel=("$work"/dist/*.whl)
make_environment clean "${wheel[0]}[train]"
cd "$work" # where no module of the repository is in reach
clean/bin/reformer-hf-quickstart --output_dir run --hidden_size 16 --num_hidden_layers 2 \
    --feed_forward_size 16 --attn_chunk_length 16 --block_size 512 --max_steps 4 --warmup_steps 1 \
    --logging_steps 1 --save_steps 4 --eval_steps 4 --max_eval_samples 2 --max_new_tokens 8

clean/bin/python - <<'PYTHON_CODE'
from pathlib import Path

import reformer_hf
from reformer_hf.hub.remote_code import add_remote_code

assert Path(reformer_hf.__file__).is_relative_to(Path("clean").resolve()), reformer_hf.__file__
add_remote_code(Path("run/model"))
PYTHON_CODE
clean/bin/python -m pip uninstall --quiet --yes reformer_hf jaxtyping
mkdir without
clean/bin/python "$REPOSITORY_ROOT/tests/hub/remote_code_worker.py" run/model without

cp "$work"/dist/* "$output/"
echo "Checked, and ready for twine upload: the wheel and the source archive in $output"

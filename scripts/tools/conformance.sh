#!/usr/bin/env bash
# Runs transformers' own common test suites on this package; tests/conformance/reasons.yaml says why some
# of them are skipped. Arguments go to pytest, for example:
#     bash scripts/tools/conformance.sh -k TestLSH
# The suites come from the source distribution of the installed version, which is kept in a cache. It
# lacks those of generation, of pipelines and of export; a checkout has them all:
#     git clone --depth 1 --branch v5.23.0 https://github.com/huggingface/transformers FOLDER
#     TRANSFORMERS_TESTS=FOLDER bash scripts/tools/conformance.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/environment.sh"
ensure_environment .venv-test dev,eval,quantization,sentencepiece,train,translate

if [ -z "${TRANSFORMERS_TESTS:-}" ]; then
    version="$("$ENVIRONMENT_PYTHON" -c 'from importlib import metadata; print(metadata.version("transformers"))')"
    cache="${XDG_CACHE_HOME:-$HOME/.cache}/reformer_hf"
    TRANSFORMERS_TESTS="$cache/transformers-$version"
    if [ ! -d "$TRANSFORMERS_TESTS" ]; then
        mkdir -p "$cache"
        download="$(mktemp -d "$cache/download.XXXXXX")"
        trap 'rm -rf "$download"' EXIT
        "$ENVIRONMENT_PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps \
            --no-binary :all: --dest "$download" "transformers==$version"
        tar xzf "$download"/transformers-*.tar.gz -C "$download"
        mv "$download/transformers-$version" "$TRANSFORMERS_TESTS" # whole, or not at all
    fi
fi
TRANSFORMERS_TESTS="$(cd "$TRANSFORMERS_TESTS" && pwd)"
export TRANSFORMERS_TESTS OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 DISABLE_SAFETENSORS_CONVERSION=1
cd "$REPOSITORY_ROOT"
"$ENVIRONMENT_PYTHON" -m pytest tests/conformance -n 2 "$@"

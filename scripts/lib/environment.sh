# Sourced by the scripts that set up an environment of their own.
#
#     source "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"
#     ensure_environment .venv-quickstart train
#     "$ENVIRONMENT_PYTHON" ...
#
# Set PYTHON to choose the interpreter that makes the environment.

REPOSITORY_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

# Prints the first interpreter that is new enough: $PYTHON if set, else one found on PATH.
find_python() {
    local candidates=(python3 python python3.14 python3.13 python3.12 python3.11) candidate
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            # Not the environment that happens to be active: it may be the one to be replaced.
            "$candidate" -c 'import sys; print(sys._base_executable)'
            return
        fi
    done
    echo "error: no Python 3.11 or newer among: ${candidates[*]}." \
        "Install one, or set PYTHON to its path." >&2
    return 1
}

# Prints a hash of all that decides what an environment holds. Arguments: interpreter, extras.
environment_fingerprint() {
    "$1" - "$REPOSITORY_ROOT" "$2" <<'PYTHON_CODE'
import hashlib
import pathlib
import sys
import tomllib

root, extras = pathlib.Path(sys.argv[1]), sys.argv[2]
project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
content = (
    str(root), extras, sys.version, sys.base_prefix,
    project["build-system"], project["project"], project["tool"]["setuptools"],
    (root / "constraints.txt").read_text(encoding="utf-8"),
)
print(hashlib.sha256(repr(content).encode()).hexdigest())
PYTHON_CODE
}

# Makes the virtual environment NAME in the repository root with this package and EXTRAS
# (comma-separated), or does nothing when it is there and up to date.
# Sets ENVIRONMENT_PYTHON to its interpreter.
ensure_environment() {
    local folder="$REPOSITORY_ROOT/$1" extras="$2" python fingerprint
    local stamp="$folder/fingerprint"
    python="$(find_python)" || return 1
    fingerprint="$(environment_fingerprint "$python" "$extras")" || return 1
    ENVIRONMENT_PYTHON="$folder/bin/python"
    if [ -x "$ENVIRONMENT_PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ]; then
        return
    fi

    echo "Installing into $folder with $python (once; needs the network)" >&2
    if ! "$python" -m venv --clear "$folder"; then
        echo "error: $python cannot make a virtual environment." \
            "On Debian and Ubuntu install python3-venv, or set PYTHON to another interpreter." >&2
        return 1
    fi
    (
        cd "$REPOSITORY_ROOT" &&
            "$ENVIRONMENT_PYTHON" -m pip install --disable-pip-version-check \
                --editable ".[$extras]" --constraint constraints.txt
    ) || return 1
    # Written last: an interrupted installation starts again.
    echo "$fingerprint" >"$stamp"
}

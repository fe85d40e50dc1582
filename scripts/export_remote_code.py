"""Adds this package's code to a saved model, so that it loads without this package.

python scripts/export_remote_code.py outputs/quickstart

Then `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` needs transformers only.
The weights are not touched; `config.json` gets an `auto_map`.
"""

import argparse
import sys
from pathlib import Path

from reformer_hf.hub.remote_code import add_remote_code


def main(arguments: list[str] | None = None) -> int:
    """Add the code; a mistake that a user can mend becomes a message and an exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what save_pretrained wrote")
    folder = parser.parse_args(arguments).folder
    try:
        files = add_remote_code(folder)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: {len(files)} files of code, and auto_map in config.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())

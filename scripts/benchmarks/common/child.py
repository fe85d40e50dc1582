"""Does one run of a benchmark or study, in a process of its own that `processes.py` starts.

Reads what is to be done as JSON from the standard input, gives it to the function `answer` of the
named module, and writes what that returns as the last line of the standard output.
"""

import argparse
import json
import sys
from importlib import import_module


def main(argv: list[str] | None = None) -> int:
    """Answer the request on the standard input."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmarks.common.child",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("module", help="such as scripts.benchmarks.training.run")
    arguments = parser.parse_args(argv)
    print(json.dumps(import_module(arguments.module).answer(json.load(sys.stdin))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

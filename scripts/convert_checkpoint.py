"""Converts a checkpoint from transformers' Reformer to this package's format, or back.

python scripts/convert_checkpoint.py google/reformer-crime-and-punishment converted
python scripts/convert_checkpoint.py converted back --to reformer
"""

import argparse
import sys

from reformer_hf.models.files.conversion import convert_checkpoint


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="folder of the checkpoint, or its name on the Hub")
    parser.add_argument("target", help="folder to write, which must not exist or be empty")
    parser.add_argument(
        "--to",
        choices=("reformer_hf", "reformer"),
        help="format to write; by default the one that the source does not have",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="write transformers' format also if transformers computes something else from it, "
        "for example from a model of the band scope",
    )
    return parser.parse_args()


def main() -> None:
    """Converts."""
    arguments = parse_arguments()
    try:
        written = convert_checkpoint(
            arguments.source, arguments.target, to=arguments.to, force=arguments.force
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.source} -> {arguments.target} in {written} format")


if __name__ == "__main__":
    main()

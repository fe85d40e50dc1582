"""Arguments of a script: from the command line, from a YAML or JSON file, or from both."""

import json
import sys
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers.utils import logging

from reformer_hf.training.processes import Interrupted, end_processes

logger = logging.get_logger(__name__)

_READERS = {".json": json.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the lines of the description as they are."""


def parse_arguments(
    kinds: Sequence[type], arguments: Sequence[str] | None = None, description: str | None = None
) -> tuple[Any, ...]:
    """Parse the arguments of a script into dataclasses.

    If the first argument is a YAML or JSON file, it gives defaults, by the names of the fields; the
    arguments behind it replace them.

    Args:
        kinds: dataclasses, as for `HfArgumentParser`.
        arguments: those of the process by default.
        description: first words of the help.

    Returns:
        An instance of each kind.

    Raises:
        ValueError: if a file has a name that no field has, or a value does not fit.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(
        kinds,  # type: ignore[arg-type]
        description=description,
        usage="%(prog)s [FILE.yaml | FILE.json] [--name value ...]",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    if arguments and Path(arguments[0]).suffix in _READERS:
        path = Path(arguments.pop(0))
        values = _read(path)
        known = {field.name for kind in kinds for field in fields(kind) if field.init}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ValueError(
                f"{path}: there is no argument {unknown[0]!r}; --help lists what there is"
            )
        parser.set_defaults(**values)
    return parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = _READERS[path.suffix](path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); mend it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds no names with values; write one 'name: value' per line")
    return values


@dataclass
class ExitStatus:
    """How a script ends.

    Attributes:
        code: 0 if all went well.
    """

    code: int = 0


@contextmanager
def readable_errors() -> Iterator[ExitStatus]:
    """Turn what a user can mend into a message on the standard error output and a status.

    Ends the processes of a distributed run besides.

    Yields:
        The status, whose code is set when the block ends.
    """
    status = ExitStatus()
    try:
        yield status
    except Interrupted as interruption:
        print(f"\n{interruption}", file=sys.stderr)
        status.code = 128 + interruption.signal_number
    except KeyboardInterrupt:
        print(
            "\nInterrupted; --resume_from_checkpoint last goes on if output_dir has a checkpoint",
            file=sys.stderr,
        )
        status.code = 130
    except (OSError, ValueError, FloatingPointError, ImportError) as error:
        logger.debug("where it happened:", exc_info=True)  # TRANSFORMERS_VERBOSITY=debug shows it
        print(f"error: {error}", file=sys.stderr)
        status.code = 1
    end_processes()

"""Arguments of a script: from the command line, from a YAML or JSON file, or from both."""

import re
import sys
from argparse import ArgumentDefaultsHelpFormatter, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser
from transformers.utils import logging

from reformer_hf.training.processes import Interrupted, end_processes
from reformer_hf.training.settings_files import SUFFIXES, read_settings

logger = logging.get_logger(__name__)

Completion = Callable[[Mapping[str, Any], Collection[str]], Mapping[str, Any]]
"""Chooses arguments from those given, by name, and the names that there are."""

_SWITCHES = {"on": "true", "off": "false"}


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the lines of the description as they are."""


class _Parser(HfArgumentParser):
    """Raises what does not fit, instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse_arguments(
    kinds: Sequence[type],
    arguments: Sequence[str] | None = None,
    description: str | None = None,
    complete: Completion | None = None,
) -> tuple[Any, ...]:
    """Parse the arguments of a script into dataclasses.

    If the first argument is a YAML or JSON file, it gives defaults, by the names of the fields; the
    arguments behind it replace them. What stands in it is read as on the command line.

    Args:
        kinds: dataclasses, as for `HfArgumentParser`.
        arguments: those of the process by default.
        description: first words of the help.
        complete: chooses more arguments, which replace what is given under the same name.

    Returns:
        An instance of each kind.

    Raises:
        ValueError: if there is no such argument, or a value does not fit.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser(
        kinds,  # type: ignore[arg-type]
        description=description,
        usage="%(prog)s [FILE.yaml | FILE.json] [--name value ...]",
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    hints: dict[str, Any] = {}
    for kind in kinds:
        of_kind = get_type_hints(kind)
        hints |= {each.name: of_kind[each.name] for each in fields(kind) if each.init}
    of_file: dict[str, Any] = {}
    if arguments and _is_file(arguments[0]):
        path = Path(arguments.pop(0)).expanduser()
        values = read_settings(path)
        try:
            of_file = {name: _fit(parser, name, value, hints) for name, value in values.items()}
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        parser.set_defaults(**of_file)
    if complete is not None:
        given = of_file | _of_command_line(parser, arguments, hints)
        arguments += command_line(complete(given, hints.keys()))
    *parsed, rest = parser.parse_args_into_dataclasses(
        arguments, look_for_args_file=False, return_remaining_strings=True
    )
    if rest:
        raise ValueError(_unknown(rest[0], hints))
    return tuple(parsed)


def command_line(values: Mapping[str, Any]) -> list[str]:
    """Write arguments as a command line has them."""
    words = []
    for name, value in values.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _of_command_line(
    parser: _Parser, arguments: Sequence[str], names: Collection[str]
) -> dict[str, Any]:
    """The arguments that a command line gives, by name."""
    absent = object()
    namespace = Namespace(**dict.fromkeys(names, absent))
    found = vars(parser.parse_known_args(arguments, namespace)[0])
    return {name: value for name, value in found.items() if value is not absent}


def _is_file(argument: str) -> bool:
    return Path(argument).suffix.lower() in SUFFIXES and not argument.startswith("-")


def _unknown(argument: str, hints: Mapping[str, Any]) -> str:
    """Say what an argument that no field has may mean."""
    if _is_file(argument):
        return f"{argument}: a file of settings comes first, before all other arguments"
    name = argument.lstrip("-").partition("=")[0].replace("-", "_")
    close = get_close_matches(name, hints, 1)
    meant = f"did you mean {close[0]}? --help" if close else "--help"
    return f"there is no argument {argument!r}: {meant} lists what there is"


def _fit(parser: _Parser, name: str, value: Any, hints: Mapping[str, Any]) -> Any:
    """Convert a value of a file to what its field holds.

    Args:
        parser: knows how, for texts and lists of them.
        name: of the field.
        value: as :func:`read_settings` gives it.
        hints: types of all fields.

    Raises:
        ValueError: naming the field and the value.
    """
    if name not in hints:
        raise ValueError(_unknown(name, hints))
    kinds = get_args(hints[name]) or (hints[name],)
    holds_list = list in (get_origin(hints[name]), *map(get_origin, kinds), *kinds)
    if value is None:
        if NoneType not in kinds:
            raise ValueError(f"{name}: null is no value of it; leave it out")
        return None
    if isinstance(value, dict) and any(dict in (kind, get_origin(kind)) for kind in kinds):
        return value
    if isinstance(value, list) and holds_list:
        numbers = any(int in get_args(kind) for kind in (hints[name], *kinds))
        return [_whole_number(name, each) if numbers else str(each) for each in value]
    if not isinstance(value, str):
        raise ValueError(f"{name}: {value!r} does not fit; give one value")
    if bool in kinds:
        value = _SWITCHES.get(value.lower(), value)
    return vars(parser.parse_known_args([f"--{name}={value}"])[0])[name]


def _whole_number(name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {value!r} is no whole number; give one") from error


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
        print(f"error: {_one_line(error)}", file=sys.stderr)
        status.code = 1
    end_processes()


def _one_line(error: Exception) -> str:
    text = str(error)
    if " in DataLoader worker process " in text.partition("\n")[0]:  # and then its traceback
        text = re.split(r"\n[\w.]+: ", text)[-1]
    return " ".join(text.split())

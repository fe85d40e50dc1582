"""Settings files: names and values in YAML or JSON.

YAML is read as version 1.2 says, not 1.1 as PyYAML does: `1e-5` is a number, `no`, `on` and `010`
are not a truth value and an octal one, and a name stands once.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

SUFFIXES = (".yaml", ".yml", ".json")
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """The core schema of YAML 1.2, without names that stand twice."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        """Refuse a name that stands twice; the last one would win."""
        _check_names([(key.value, key.start_mark.line) for key, _ in node.value])
        return super().construct_mapping(node, deep=deep)


for _kind, _pattern in (
    ("null", r"(~|null|Null|NULL|)"),
    ("bool", r"(true|True|TRUE|false|False|FALSE)"),
    ("int", r"[-+]?[0-9]+"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
    ("float", r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))"),
    ("merge", r"<<"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"^(?:{_pattern})$"), None)


def _decimal(loader: _Loader, node: Any) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor(f"{_TAG}int", _decimal)


def read_yaml(text: str) -> Any:
    """Read a value, as YAML 1.2 writes it.

    Raises:
        ValueError: saying what cannot be read, and where.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(_reason(error)) from error


def read_settings(path: Path) -> dict[str, Any]:
    """Read a file of names and values.

    Returns:
        Each value by its name: a number, a truth value or a word is the text that stands there, as
        on a command line; `null` is None; lists and mappings are those of Python.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: naming the file, and what in it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = _json(text) if path.suffix.lower() == ".json" else _yaml(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read ({_reason(error)}); mend it") from error
    if values is None:
        raise ValueError(f"{path}: holds no names with values; write one 'name: value' per line")
    return values


def _reason(error: Exception) -> str:
    """What is wrong, in one line."""
    mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + " ".join(str(problem or error).split())


def _yaml(text: str) -> dict[str, Any] | None:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            return None
        _check_names([(key.value, key.start_mark.line) for key, _ in root.value])
        loader.flatten_mapping(root)
        return {str(key.value): _text_or_value(loader, value) for key, value in root.value}
    finally:
        loader.dispose()


def _text_or_value(loader: _Loader, node: Any) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_text_or_value(loader, each) for each in node.value]
    is_text = isinstance(node, yaml.ScalarNode) and node.tag != f"{_TAG}null"
    return node.value if is_text else loader.construct_object(node, deep=True)


def _json(text: str) -> dict[str, Any] | None:
    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check_names([(name, None) for name, _ in pairs])
        return dict(pairs)

    values = json.loads(text, object_pairs_hook=collect)
    if not isinstance(values, dict):
        return None
    plain = (bool, int, float)
    return {n: json.dumps(v) if isinstance(v, plain) else v for n, v in values.items()}


def _check_names(names: Sequence[tuple[Any, int | None]]) -> None:
    """Refuse a name that stands twice; lines count from 0, None where they are not known."""
    seen = set()
    for name, line in names:
        if str(name) in seen:
            where = "" if line is None else f" in line {line + 1}"
            raise ValueError(f"{name!r} stands twice, again{where}: leave one of them out")
        seen.add(str(name))

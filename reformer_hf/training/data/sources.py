"""Rows from files or from the Hub, through `datasets`: what all tasks with labels share."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets
from transformers import TrainingArguments

from reformer_hf.training.argument_checks import check_choices, require_positive
from reformer_hf.training.arguments import argument
from reformer_hf.training.checkpoints import settings_of
from reformer_hf.training.data.reading import not_utf8

SPLITS = {
    "train": "max_train_samples",
    "validation": "max_eval_samples",
    "test": "max_predict_samples",
}
"""Parts of the data, and which argument limits each."""

_HASHED = 1 << 20  # bytes at the start of each file
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
_TEXTS = (".txt", *_TABLES)
_AS_THEY_STAND = {"csv": {"na_filter": False}, "text": {"encoding": "utf-8-sig"}}  # by builder
_PLACES = {"name", "version", "data_dir", "data_files", "description"}  # of a configuration


@dataclass
class RowArguments:
    """Where rows come from, with the names of transformers' example scripts."""

    _argument_group_name = "data"

    dataset_name: str | None = argument(None, "Name of a dataset on the Hub, or a local one.")
    dataset_config_name: str | None = argument(None, "Configuration of that dataset.")
    train_file: str | None = argument(None, "File of rows to train on.")
    validation_file: str | None = argument(None, "File of rows to evaluate on.")
    test_file: str | None = argument(None, "File of rows to predict.")
    max_train_samples: int | None = argument(None, "Train on the first so many rows.")
    max_eval_samples: int | None = argument(None, "Evaluate on the first so many rows.")
    max_predict_samples: int | None = argument(None, "Predict the first so many rows.")
    baselines: bool = argument(
        True, "Compare the evaluation at the end of a training with simple methods."
    )

    def __post_init__(self):
        check_choices(self)
        require_positive(self, *(f.name for f in fields(self) if f.name.startswith("max_")))

    def settings(self) -> dict[str, Any]:
        """What :func:`describe_rows` says of them."""
        return describe_rows(self, [p for s, p in self.find_files().items() if s == "train"])

    def find_files(self) -> dict[str, Path]:
        """The named files by split.

        Raises:
            OSError: if one is not there, or is a folder.
        """
        named = {split: getattr(self, f"{split}_file") for split in SPLITS}
        files = {split: Path(file).expanduser() for split, file in named.items() if file}
        for path in files.values():
            if path.is_dir():
                raise IsADirectoryError(f"{path}: a folder; name a file of rows")
            if not path.is_file():
                raise FileNotFoundError(f"{path}: there is no such file; check the path")
        return files


def load(path: str, kind: str = "rows", source: Any = None, **options: Any) -> Any:
    """Call `datasets.load_dataset`; whatever fails becomes one readable error.

    In the files of a dataset `null` and `NA` are text and a byte-order mark is none, as in files of
    one's own.

    Args:
        path: a name on the Hub, or a builder.
        kind: what is loaded, in a word, for the error.
        source: what is loaded from; `path` by default.
        **options: of `load_dataset`.

    Raises:
        OSError: naming the source and the cause.
    """
    with _one_error(kind, source or path):
        if kind != "images" and "data_files" not in options:
            named = {key: options[key] for key in options.keys() & {"name", "cache_dir", "token"}}
            options |= _AS_THEY_STAND.get(datasets.load_dataset_builder(path, **named).name, {})
        return datasets.load_dataset(path, **options)


def tables_of_folder(
    name: str | None, config_name: str | None = None, kind: str = "rows"
) -> dict[str, list[Path]]:
    """The tables of a local dataset, by split, to be read like files of rows, without a guess.

    Args:
        name: of a dataset, or a path.
        config_name: of its configuration.
        kind: what is loaded, in a word, for the error.

    Returns:
        Nothing where `datasets` has to read it: on the Hub, of another format, or where the
        folder's card says how.

    Raises:
        OSError: if the folder is no dataset.
    """
    folder = Path(name or "").expanduser()
    if name is None or not folder.is_dir():
        return {}
    with _one_error(kind, name):
        builder = datasets.load_dataset_builder(str(folder), name=config_name)
    config: Any = builder.config
    chosen = {
        each.name
        for each in fields(config)
        if getattr(config, each.name) != each.default
        and (each.name, getattr(config, each.name)) != ("sep", "\t")
    }
    files = {
        str(split): [Path(file) for file in paths] for split, paths in config.data_files.items()
    }
    are_tables = all(
        file.is_file() and file.suffix.lower() in _TABLES
        for paths in files.values()
        for file in paths
    )
    is_described = builder.info.features is not None or not chosen <= _PLACES
    return files if are_tables and not is_described and builder.name in ("csv", "json") else {}


@contextmanager
def _one_error(kind: str, source: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # offline, unknown, malformed: datasets has a class for each
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {cause}"
        if isinstance(cause, UnicodeDecodeError) and Path(str(source)).is_dir():
            texts = (path for path in sorted(Path(source).rglob("*")) if path.suffix in _TEXTS)
            reason = next(filter(None, map(not_utf8, texts)), reason)
        raise OSError(
            f"the {kind} could not be loaded from {source} ({reason}). Check the name, the files "
            "and the connection"
        ) from error


def wanted_splits(arguments: TrainingArguments, known: Collection[str] = SPLITS) -> list[str]:
    """The parts of the data that a run is asked to use.

    Args:
        arguments: with `do_train`, `do_eval` and `do_predict`.
        known: parts that the task can use.

    Raises:
        ValueError: if there are none, or there is one that the task cannot use.
    """
    flags = {"train": "do_train", "validation": "do_eval", "test": "do_predict"}
    for split in flags.keys() - set(known):
        if getattr(arguments, flags[split]):
            raise ValueError(f"{flags[split]}=True: there is no {split} split here; leave it out")
    wanted = [split for split in known if getattr(arguments, flags[split])]
    if not wanted:
        flags = " or ".join(f"--{flags[split]}" for split in known)
        raise ValueError(f"there is nothing to do: give {flags}")
    return wanted


def check_splits(wanted: Collection[str], data: Mapping[str, Any]) -> None:
    """Check that there are rows of each part.

    Raises:
        ValueError: naming the part.
    """
    for split in wanted:
        if not data.get(split):
            raise ValueError(f"there is no {split} data; name a {split}_file")


def describe_rows(arguments: Any, files: Sequence[Path]) -> dict[str, Any]:
    """What decides the rows that a run trains on, by the arguments' names.

    Files, also those of a local dataset, are described by number, size and a hash, so that they
    may move but not change.

    Args:
        arguments: which data, a dataclass.
        files: of the training data; none if they are a dataset.

    Returns:
        JSON values.
    """
    settings = settings_of(arguments)
    if arguments.validation_file is not None and "validation_split_percentage" in settings:
        settings["validation_split_percentage"] = None
    if files:
        settings["train_file"] = _describe_files(files)
    elif arguments.dataset_name and (folder := Path(arguments.dataset_name)).is_dir():
        inside = (path for path in sorted(folder.rglob("*")) if path.is_file())
        settings["dataset_files"] = _describe_files(list(inside))
    return settings


def _describe_files(paths: Sequence[Path]) -> str:
    digest, total = hashlib.sha256(), 0
    for path in paths:
        size = path.stat().st_size
        total += size
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{size}\0".encode() + file.read(_HASHED))
    return f"{len(paths)} files, {total:,} bytes, sha256 {digest.hexdigest()[:16]}"


def take_first(splits: Mapping[Any, Any], arguments: RowArguments) -> dict[str, Any]:
    """The known splits, each with as many rows as the arguments allow."""
    limited = {}
    for split, limit_name in SPLITS.items():
        if split in splits:
            rows, limit = splits[split], getattr(arguments, limit_name)
            limited[split] = rows if limit is None else rows.select(range(min(limit, len(rows))))
    return limited

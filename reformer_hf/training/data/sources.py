"""Rows from files or from the Hub, through `datasets`: what all tasks with labels share."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets

from reformer_hf.training.arguments import argument, check_choices

SPLITS = {
    "train": "max_train_samples",
    "validation": "max_eval_samples",
    "test": "max_predict_samples",
}
"""Parts of the data, and which argument limits each."""


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

    def __post_init__(self):
        check_choices(self)
        for name in (each.name for each in fields(self) if each.name.startswith("max_")):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1, or left out")

    def find_files(self) -> dict[str, Path]:
        """The named files by split.

        Raises:
            FileNotFoundError: if one is not there.
        """
        named = {split: getattr(self, f"{split}_file") for split in SPLITS}
        files = {split: Path(file).expanduser() for split, file in named.items() if file}
        for path in files.values():
            if not path.is_file():
                raise FileNotFoundError(f"{path}: there is no such file; check the path")
        return files


def require_positive(arguments: Any, *names: str) -> None:
    """Check that the named fields are above 0, where they are given.

    Raises:
        ValueError: naming field and value.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name}={value}: must be above 0")


def load(path: str, kind: str = "rows", source: Any = None, **options: Any) -> Any:
    """Call `datasets.load_dataset`; whatever fails becomes one readable error.

    Args:
        path: a name on the Hub, or a builder.
        kind: what is loaded, in a word, for the error.
        source: what is loaded from; `path` by default.
        **options: of `load_dataset`.

    Raises:
        OSError: naming the source and the cause.
    """
    try:
        return datasets.load_dataset(path, **options)
    except Exception as error:  # offline, unknown, malformed: datasets has a class for each
        cause = error.__cause__ or error
        raise OSError(
            f"the {kind} could not be loaded from {source or path} ({type(cause).__name__}: "
            f"{cause}). Check the name, the files and the connection"
        ) from error


def take_first(splits: Mapping[Any, Any], arguments: RowArguments) -> dict[str, Any]:
    """The known splits, each with as many rows as the arguments allow."""
    limited = {}
    for split, limit_name in SPLITS.items():
        if split in splits:
            rows, limit = splits[split], getattr(arguments, limit_name)
            limited[split] = rows if limit is None else rows.select(range(min(limit, len(rows))))
    return limited

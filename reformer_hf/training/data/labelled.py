"""Labelled rows: where they come from, which columns they have, which are held out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from transformers.utils import logging

from reformer_hf.training.argument_checks import check_source
from reformer_hf.training.arguments import argument
from reformer_hf.training.data.files import open_rows
from reformer_hf.training.data.labels import recognise_numbers
from reformer_hf.training.data.reading import separator_hint
from reformer_hf.training.data.sources import (
    SPLITS,
    RowArguments,
    load,
    tables_of_folder,
    take_first,
)

logger = logging.get_logger(__name__)

PLACE = "_place"
"""Column that says where a row stands, for errors; rows are held out in another order."""

_TEXT = {"sequence": ("text", "sentence"), "token": ("tokens", "words")}
_LABELS = {"sequence": ("label", "labels"), "token": ("ner_tags", "labels", "tags")}


@dataclass
class ClassificationDataArguments(RowArguments):
    """Where labelled rows come from, and which of their columns are text and labels.

    Files are JSON (.json, .jsonl), CSV (.csv), tab-separated (.tsv) or Parquet (.parquet).
    """

    task_name: Literal["sequence", "token"] = argument(
        "sequence", "Classify whole texts ('sequence'), or each word of a list ('token')."
    )
    text_column_names: str | None = argument(
        None,
        "Columns of text, separated by commas; several are joined. Default: 'text' or 'sentence', "
        "for words 'tokens' or 'words'.",
    )
    text_column_delimiter: str = argument(" ", "What several columns of text are joined by.")
    label_column_name: str | None = argument(
        None, "Column of labels. Default: 'label' or 'labels', for words 'ner_tags' or 'labels'."
    )
    do_regression: bool | None = argument(
        None, "Whether labels are numbers to approximate. Default: whether they are fractions."
    )
    max_seq_length: int | None = argument(
        None, "Tokens of a text; what is longer is cut. Default: the model's longest input."
    )
    label_all_tokens: bool = argument(
        False, "Give the label of a word to all its tokens, instead of to the last one only."
    )
    validation_split_percentage: int = argument(
        10, "Share of the training rows that is held out where there is no validation data."
    )
    preprocessing_num_workers: int | None = argument(None, "Processes that tokenise.")
    overwrite_cache: bool = argument(False, "Tokenise again what is in the cache.")

    def __post_init__(self):
        super().__post_init__()
        check_source(self)
        if self.do_regression and self.task_name == "token":
            raise ValueError("do_regression with task_name='token': words have classes only")


def load_rows(
    arguments: ClassificationDataArguments,
    cache_dir: str | None = None,
    token: str | None = None,
) -> dict[str, Dataset]:
    """Open the splits `train`, `validation` and `test` whole, as far as they are there.

    Args:
        arguments: which data.
        cache_dir: where `datasets` keeps it; its default if None.
        token: for private datasets of the Hub.

    Raises:
        OSError: if there is no such dataset or file, or it cannot be read.
        ValueError: if a file is malformed, or a column is missing.
    """
    name, config_name = arguments.dataset_name, arguments.dataset_config_name
    files = tables_of_folder(name, config_name)
    files |= {split: [path] for split, path in arguments.find_files().items()}
    if name is None or files:
        return _open_files(arguments, files, cache_dir)
    options: dict[str, Any] = {"name": config_name, "token": token}
    found = load(name, cache_dir=cache_dir, **options)
    return {
        split: _with_places(found[split], f"{name}, {split}") for split in SPLITS if split in found
    }


def hold_out(
    splits: Mapping[str, Dataset], arguments: ClassificationDataArguments, seed: int = 0
) -> dict[str, Dataset]:
    """Hold out some of the training rows where there is no validation data; then limit the splits.

    Args:
        splits: as :func:`load_rows` opens them.
        arguments: how many rows.
        seed: of the choice of what is held out.

    Raises:
        ValueError: if there is only one row.
    """
    splits = dict(splits)
    if "train" in splits and "validation" not in splits:
        count = len(splits["train"])
        if count < 2:
            raise ValueError(
                "the training data are one row, and none is left to evaluate on: give more rows"
            )
        held_out = min(math.ceil(count * arguments.validation_split_percentage / 100), count - 1)
        parts = splits["train"].train_test_split(held_out, seed=seed)
        splits["train"], splits["validation"] = parts["train"], parts["test"]
    return take_first(splits, arguments)


def _open_files(
    arguments: ClassificationDataArguments,
    files: Mapping[str, Sequence[Path]],
    cache_dir: str | None,
) -> dict[str, Dataset]:
    splits: dict[str, Any] = {}
    are_numbers = True
    for split in (split for split in SPLITS if split in files):
        label, paths = None, files[split]

        def choose(names: list[str], labelled: bool = split != "test") -> list[str]:
            nonlocal label
            text, label = choose_columns(arguments, names, labelled)
            label = label if labelled else None  # nothing reads those of a test split
            return list(dict.fromkeys([*text, *([] if label is None else [label])]))

        rows: Any = open_rows({split: paths}, cache_dir=cache_dir, choose=choose)[split]
        is_table = all(path.suffix.lower() in (".csv", ".tsv") for path in paths)
        if label is not None and is_table and are_numbers:
            rows = recognise_numbers(rows, label)
            are_numbers = rows.features[label].dtype != "string"  # as in training
        source = str(paths[0]) if len(paths) == 1 else f"{arguments.dataset_name}, {split}"
        splits[split] = _with_places(rows, source)
    return splits


def _with_places(rows: Dataset, source: str) -> Dataset:
    places = [f"{source}: row {number:,}" for number in range(1, len(rows) + 1)]
    return rows.add_column(PLACE, places)  # type: ignore[call-arg]


def choose_columns(
    arguments: ClassificationDataArguments, names: Sequence[str], labelled: bool = True
) -> tuple[list[str], str | None]:
    """Find the columns of text and the column of labels, None if there is no such column.

    Args:
        arguments: which name them, or not.
        names: of all columns.
        labelled: whether a named column of labels must be there.

    Raises:
        ValueError: if a named column is not there, or there is none of the usual names.
    """
    names, usual = [name for name in names if name != PLACE], _TEXT[arguments.task_name]
    text = (arguments.text_column_names or "").split(",")
    if arguments.text_column_names is None:
        text = [name for name in usual if name in names][:1]
    if not text:
        raise ValueError(
            f"the data have the columns {names}, and none is named {' or '.join(usual)}: "
            f"choose text_column_names{separator_hint(names)}"
        )
    label = arguments.label_column_name
    if not labelled and label not in names:
        label = None
    if label is None:
        label = next((name for name in _LABELS[arguments.task_name] if name in names), None)
    missing = [name for name in (*text, label) if name is not None and name not in names]
    if missing:
        raise ValueError(
            f"column {missing[0]!r} is not among those of the data: {names}{separator_hint(names)}"
        )
    if arguments.task_name == "token" and len(text) > 1:
        raise ValueError(f"text_column_names={text}: words are in one column")
    return text, label

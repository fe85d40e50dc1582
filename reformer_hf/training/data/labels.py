"""What the labels of a dataset are: classes, several at a time, numbers, or classes of words."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from datasets import ClassLabel, Dataset, LargeList, List, Value
from transformers.utils import logging

logger = logging.get_logger(__name__)

Kind = Literal["single_label_classification", "multi_label_classification", "regression", "token"]

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")  # as Python writes it: "007" is a name
_DECIMAL = re.compile(
    rf"{_WHOLE.pattern}|[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]+)?"
)


@dataclass(frozen=True)
class LabelSpace:
    """The labels that a model learns.

    Attributes:
        kind: `problem_type` of a model that classifies rows, or `token`.
        names: of the classes; empty for regression.
        numbered: names by the numbers that the data hold instead; empty if they hold names.
    """

    kind: Kind
    names: tuple[str, ...]
    numbered: tuple[str, ...] = ()

    def config_fields(self) -> dict[str, Any]:
        """Fields of the model's configuration."""
        fields: dict[str, Any] = {} if self.kind == "token" else {"problem_type": self.kind}
        if not self.names:
            return {**fields, "num_labels": 1}
        by_number = dict(enumerate(self.names))
        by_name = {name: number for number, name in by_number.items()}
        return {**fields, "id2label": by_number, "label2id": by_name}

    def in_order_of(self, names: Sequence[str]) -> "LabelSpace":
        """Number the classes as a trained classifier does, which may know more of them.

        Args:
            names: the classifier's, by number.

        Raises:
            ValueError: if the data have labels that the classifier does not know.
        """
        if self.kind == "regression" and len(names) == 1:
            return self
        if self.names and set(self.names) <= set(names):
            return replace(self, names=tuple(names))
        numbers = [int(name) for name in self.names if _WHOLE.fullmatch(name)]
        is_number = not self.numbered and len(numbers) == len(self.names)
        if is_number and numbers and 0 <= min(numbers) <= max(numbers) < len(names):
            pairs = ", ".join(f"{number} is {names[number]}" for number in sorted(numbers)[:5])
            logger.warning(f"labels are numbers and taken for those of the model: {pairs}")
            return replace(self, names=tuple(names), numbered=tuple(names))
        if len(self.names) == len(names) and all(name.startswith("LABEL_") for name in names):
            return self
        found = "numbers to approximate" if self.kind == "regression" else _some(self.names)
        raise ValueError(
            f"the data have the labels {found}, and the trained model {_some(names)}: rename the "
            "labels, or start from a model that is no classifier yet"
        )

    def encode(self, label: Any) -> Any:
        """Turn a row's label into what the model takes.

        Raises:
            ValueError: if the label is missing, or was not among those of the training data.
        """
        if label in (None, "") or (isinstance(label, list) and None in label):
            raise ValueError("no label: remove the row, or name another label_column_name")
        if self.kind == "regression":
            return _number_of(label)
        if self.kind == "single_label_classification":
            return self._class_of(label)
        if not isinstance(label, list):
            raise ValueError(f"label {label!r} is no list: give a list of labels")
        numbers = [self._class_of(each) for each in label]
        if self.kind == "token":
            return numbers
        return [float(number in numbers) for number in range(len(self.names))]

    def _class_of(self, label: Any) -> int:
        name = str(label)
        if self.numbered and isinstance(label, int) and 0 <= label < len(self.numbered):
            name = self.numbered[label]
        if name not in self.names:
            raise ValueError(
                f"label {label!r} is not among the {len(self.names)} of the training data "
                f"({_some(self.names)}): correct it, or remove the row"
            )
        return self.names.index(name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def _number_of(label: Any) -> float:
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"label {label!r} is no number: correct it, or remove the row")
    return number


def recognise_numbers(rows: Dataset, column: str) -> Dataset:
    """Make a table's labels, which are text, numbers where all of them are: whole ones or others.

    Args:
        rows: with labels as they stand in the file, so that `null` and `nan` are names.
        column: that holds the labels.
    """
    labels = rows[column]
    for pattern, kind in ((_WHOLE, int), (_DECIMAL, float)):
        if all(pattern.fullmatch(label) for label in labels):
            numbers: Any = [kind(label) for label in labels]
            added: Any = rows.add_column("_numbers", numbers)  # type: ignore[call-arg]
            return added.remove_columns(column).rename_column("_numbers", column)
    return rows


def number_names(rows: Dataset, column: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names by the numbers in a column of labels: the data's own, or else the model's.

    Args:
        rows: with that column.
        column: that holds the labels.
        names: of a model's classes, by number.
    """
    feature = rows.features[column]
    inner = feature.feature if isinstance(feature, List | LargeList) else feature
    if isinstance(inner, ClassLabel):
        return tuple(inner.names)
    return () if all(_WHOLE.fullmatch(name) for name in names) else tuple(names)


def find_labels(rows: Dataset, column: str, task: str, do_regression: bool | None) -> LabelSpace:
    """Find out what the labels of training rows are.

    Args:
        rows: of the training data.
        column: that holds the labels.
        task: `sequence` or `token`.
        do_regression: whether they are numbers; None for whether they are fractions.

    Raises:
        ValueError: if they do not suit the task.
    """
    feature = rows.features[column]
    listed = isinstance(feature, List | LargeList)
    inner = feature.feature if listed else feature
    if task == "token" and not listed:
        raise ValueError(
            f"label_column_name={column!r} has one value per row, but task_name='token' needs one "
            "per word: name another column, or use task_name='sequence'"
        )
    if not isinstance(inner, Value | ClassLabel):
        raise ValueError(
            f"label_column_name={column!r} holds objects or lists of lists: give text or numbers"
        )
    is_float = isinstance(inner, Value) and inner.dtype.startswith("float")
    if do_regression or (do_regression is None and is_float):
        if listed:
            raise ValueError(
                f"label_column_name={column!r} holds lists, but regression needs one number per row"
            )
        return LabelSpace("regression", ())
    kind: Kind = "single_label_classification"
    if listed:
        kind = "token" if task == "token" else "multi_label_classification"
    if isinstance(inner, ClassLabel):
        return LabelSpace(kind, tuple(inner.names), numbered=tuple(inner.names))
    rows_of_flags = (row for row in rows[column] if row and set(row) <= {0, 1})
    if kind == "multi_label_classification" and any(len(set(r)) < len(r) for r in rows_of_flags):
        raise ValueError(
            f"label_column_name={column!r} holds a 0 or 1 for each class: give lists of those "
            "classes that a text has, by name or number"
        )
    # Numbers by value, names by letters.
    found = sorted(
        {each for row in rows[column] for each in ((row or []) if listed else [row])} - {None, ""}  # type: ignore[type-var]
    )
    if len(found) < 2:
        raise ValueError(
            f"label_column_name={column!r} has the labels {found}: there is nothing to tell apart"
        )
    return LabelSpace(kind, tuple(map(str, found)))

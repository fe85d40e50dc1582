"""What the labels of a dataset are: classes, several at a time, numbers, or classes of words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from datasets import ClassLabel, Dataset, LargeList, List, Value

Kind = Literal["single_label_classification", "multi_label_classification", "regression", "token"]


@dataclass(frozen=True)
class LabelSpace:
    """The labels that a model learns.

    Attributes:
        kind: `problem_type` of a model that classifies rows, or `token`.
        names: of the classes; empty for regression.
        numbered: whether the data hold numbers of classes instead of their names.
    """

    kind: Kind
    names: tuple[str, ...]
    numbered: bool = False

    def config_fields(self) -> dict[str, Any]:
        """Fields of the model's configuration."""
        fields: dict[str, Any] = {} if self.kind == "token" else {"problem_type": self.kind}
        if not self.names:
            return {**fields, "num_labels": 1}
        by_number = dict(enumerate(self.names))
        by_name = {name: number for number, name in by_number.items()}
        return {**fields, "id2label": by_number, "label2id": by_name}

    def in_order_of(self, names: Sequence[str]) -> "LabelSpace":
        """Number the classes as a trained model does, if it has the same ones.

        Args:
            names: the model's, by number.

        Raises:
            ValueError: if the data number the same classes otherwise.
        """
        if tuple(names) == self.names or sorted(names) != sorted(self.names):
            return self
        if self.numbered:
            raise ValueError(
                f"the data number the labels {', '.join(self.names[:5])} …, and the model "
                f"{', '.join(names[:5])} …: give names of labels instead of numbers"
            )
        return replace(self, names=tuple(names))

    def encode(self, label: Any) -> Any:
        """Turn a row's label into what the model takes.

        Raises:
            ValueError: if the label is missing, or was not among those of the training data.
        """
        if label is None:
            raise ValueError("a row has no label: remove it, or name another label_column_name")
        if self.kind == "regression":
            return float(label)
        if self.kind == "single_label_classification":
            return self._number(label)
        numbers = [self._number(each) for each in label]
        if self.kind == "token":
            return numbers
        return [float(number in numbers) for number in range(len(self.names))]

    def _number(self, label: Any) -> int:
        if self.numbered and isinstance(label, int) and 0 <= label < len(self.names):
            return label
        if str(label) not in self.names:
            raise ValueError(
                f"label {label!r} is not among the {len(self.names)} of the training data "
                f"({', '.join(self.names[:5])} …): correct it, or remove the row"
            )
        return self.names.index(str(label))


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
        return LabelSpace(kind, tuple(inner.names), numbered=True)
    # Numbers by value, names by letters.
    found = sorted(
        {each for row in rows[column] for each in (row if listed else [row])} - {None}  # type: ignore[type-var]
    )
    if len(found) < 2:
        raise ValueError(
            f"label_column_name={column!r} has the labels {found}: there is nothing to tell apart"
        )
    return LabelSpace(kind, tuple(map(str, found)))

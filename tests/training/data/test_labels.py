"""What the labels of a dataset are, and what the model gets of them."""

import pytest
from datasets import ClassLabel, Dataset, Features, List

from reformer_hf.training.data.labels import LabelSpace, find_labels


def rows(labels: list, feature=None) -> Dataset:
    features = None if feature is None else Features({"label": feature})
    return Dataset.from_dict({"label": labels}, features)


CASES = {
    "names": (rows(["b", "a", "b", None]), "sequence", None, "single", ("a", "b")),
    "numbers by value": (rows([10, 9, 10]), "sequence", None, "single", ("9", "10")),
    "class labels": (
        rows([1, 0], ClassLabel(names=["no", "yes"])),
        "sequence",
        None,
        "single",
        ("no", "yes"),
    ),
    "several": (rows([["x"], [], ["y", "x"]]), "sequence", None, "multi", ("x", "y")),
    "fractions": (rows([0.5, 1.0]), "sequence", None, "regression", ()),
    "numbers to approximate": (rows([1, 2]), "sequence", True, "regression", ()),
    "fractions as classes": (rows([0.5, 1.5]), "sequence", False, "single", ("0.5", "1.5")),
    "words": (rows([["O", "B-X"], ["O"]]), "token", None, "token", ("B-X", "O")),
    "numbered words": (
        rows([[1, 0]], List(ClassLabel(names=["O", "B-X"]))),
        "token",
        None,
        "token",
        ("O", "B-X"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_kinds_and_names(case):
    data, task, do_regression, kind, names = CASES[case]
    labels = find_labels(data, "label", task, do_regression)
    assert labels.kind.startswith(kind) and labels.names == names


def test_what_the_model_gets():
    single = LabelSpace("single_label_classification", ("9", "10"))
    assert [single.encode(label) for label in (9, "10")] == [0, 1]
    numbered = LabelSpace("single_label_classification", ("no", "yes"), numbered=True)
    assert [numbered.encode(label) for label in (1, "yes")] == [1, 1]
    several = LabelSpace("multi_label_classification", ("x", "y", "z"))
    assert [several.encode(label) for label in (["z", "x"], [])] == [[1.0, 0.0, 1.0], [0.0] * 3]
    assert LabelSpace("regression", ()).encode(3) == 3.0
    assert LabelSpace("token", ("B-X", "O")).encode(["O", "B-X"]) == [1, 0]
    assert single.config_fields() == {
        "problem_type": "single_label_classification",
        "id2label": {0: "9", 1: "10"},
        "label2id": {"9": 0, "10": 1},
    }
    assert LabelSpace("regression", ()).config_fields()["num_labels"] == 1


@pytest.mark.parametrize(
    ("data", "task", "do_regression", "message"),
    [
        (rows(["a"]), "token", None, "needs one per word"),
        (rows(["a", "a"]), "sequence", None, "nothing to tell apart"),
        (rows([[0.5]]), "sequence", None, "one number per row"),
    ],
)
def test_labels_that_do_not_suit_the_task(data, task, do_regression, message):
    with pytest.raises(ValueError, match=message):
        find_labels(data, "label", task, do_regression)


def test_unknown_and_missing_labels():
    labels = LabelSpace("single_label_classification", ("a", "b"))
    with pytest.raises(ValueError, match="label 'c' is not among the 2"):
        labels.encode("c")
    with pytest.raises(ValueError, match="no label"):
        labels.encode(None)
    numbered = LabelSpace("single_label_classification", ("no", "yes"), numbered=True)
    with pytest.raises(ValueError, match="label 7"):
        numbered.encode(7)


def test_a_trained_models_numbers_stay():
    space = LabelSpace("single_label_classification", ("neg", "pos"))
    assert space.in_order_of(["pos", "neg"]).encode("neg") == 1
    assert space.in_order_of(["LABEL_0", "LABEL_1"]) == space
    assert space.in_order_of(["pos", "neg", "other"]) == space
    numbered = LabelSpace("single_label_classification", ("neg", "pos"), numbered=True)
    assert numbered.in_order_of(["neg", "pos"]) == numbered
    with pytest.raises(ValueError, match="the data number the labels neg, pos"):
        numbered.in_order_of(["pos", "neg"])

"""What the labels of a dataset are, and what the model gets of them."""

import pytest
from datasets import ClassLabel, Dataset, Features, List

from reformer_hf.training.data.labels import (
    LabelSpace,
    find_labels,
    number_names,
    recognise_numbers,
)


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


def test_a_flag_for_each_class_is_refused():
    with pytest.raises(ValueError, match="holds a 0 or 1 for each class: give lists of those"):
        find_labels(rows([[1, 0, 0], [0, 1, 1]]), "label", "sequence", None)


@pytest.mark.parametrize("kind", ["token", "multi_label_classification"])
def test_no_label_is_no_class_of_that_name(kind):
    with pytest.raises(ValueError, match="no label"):
        LabelSpace(kind, ("None", "x")).encode(["x", None])


def test_what_the_model_gets():
    single = LabelSpace("single_label_classification", ("9", "10"))
    assert [single.encode(label) for label in (9, "10")] == [0, 1]
    numbered = LabelSpace("single_label_classification", ("no", "yes"), ("no", "yes"))
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
        (rows([None, None]), "sequence", None, "nothing to tell apart"),
        (rows([{"a": 1}, {"a": 2}]), "sequence", None, "objects or lists of lists"),
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
    with pytest.raises(ValueError, match="no label"):
        labels.encode("")
    for label in ("x", float("nan")):
        with pytest.raises(ValueError, match="is no number"):
            LabelSpace("regression", ()).encode(label)
    numbered = LabelSpace("single_label_classification", ("no", "yes"), ("no", "yes"))
    with pytest.raises(ValueError, match="label 7"):
        numbered.encode(7)


def test_a_trained_classifiers_labels_stay():
    space = LabelSpace("single_label_classification", ("neg", "pos"))
    assert space.in_order_of(["pos", "neg"]).encode("neg") == 1
    assert space.in_order_of(["LABEL_0", "LABEL_1"]) == space
    more = space.in_order_of(["other", "pos", "neg"])
    assert more.names == ("other", "pos", "neg") and more.encode("neg") == 2
    for names in (["pos", "other"], ["neg", "other", "more"], ["LABEL_0"] * 3):
        with pytest.raises(ValueError, match="labels neg, pos, and the trained model"):
            space.in_order_of(names)


def test_numbers_keep_their_meaning_with_a_trained_classifier(caplog):
    numbered = LabelSpace("single_label_classification", ("neg", "pos"), ("neg", "pos"))
    swapped = numbered.in_order_of(["pos", "other", "neg"])
    assert [swapped.encode(label) for label in (0, 1, "pos")] == [2, 0, 0]
    plain = LabelSpace("single_label_classification", ("0", "2"))
    with caplog.at_level("WARNING"):
        found = plain.in_order_of(["neg", "neutral", "pos"])
    assert "0 is neg, 2 is pos" in caplog.text
    assert [found.encode(label) for label in (0, 2, "neg")] == [0, 2, 0]
    stars = LabelSpace("single_label_classification", ("9", "10")).in_order_of(["10", "9"])
    assert stars.encode(9) == 1
    with pytest.raises(ValueError, match="labels 1, 3"):
        LabelSpace("single_label_classification", ("1", "3")).in_order_of(["a", "b", "c"])


def test_regression_and_classes_do_not_mix():
    regression = LabelSpace("regression", ())
    assert regression.in_order_of(["LABEL_0"]) == regression
    with pytest.raises(ValueError, match="numbers to approximate, and the trained model a, b"):
        regression.in_order_of(["a", "b"])
    with pytest.raises(ValueError, match="labels a, b"):
        LabelSpace("single_label_classification", ("a", "b")).in_order_of(["LABEL_0"])


def test_names_by_the_numbers_of_evaluated_rows():
    own = rows([1, 0], ClassLabel(names=["no", "yes"]))
    assert number_names(own, "label", ("yes", "no")) == ("no", "yes")
    assert number_names(rows([1, 0]), "label", ("yes", "no")) == ("yes", "no")
    assert number_names(rows([9]), "label", ("9", "10")) == ()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["10", "-9", "0"], [10, -9, 0]),
        (["1", "2.5", "-.5", "1e-05", "3."], [1.0, 2.5, -0.5, 1e-05, 3.0]),
        *(([name, "1"], None) for name in ("null", "NA", "nan", "inf", "True", "None", "007", "")),
        (["1", "1_0"], None),
        (["1", "\u0661"], None),
    ],
)
def test_numbers_of_tables_are_recognised(labels, expected):
    found = recognise_numbers(rows(labels), "label")["label"]
    assert [*found] == (expected or labels) and type(found[0]) is type((expected or labels)[0])

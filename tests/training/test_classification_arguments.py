"""Arguments of classification that do not fit together."""

import pytest

from reformer_hf.training.classification_arguments import ClassificationDataArguments


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "dataset_name, train_file and validation_file are all missing"),
        ({"train_file": "a", "validation_split_percentage": 100}, "validation_split_percentage="),
        ({"train_file": "a", "task_name": "token", "do_regression": True}, "words have classes"),
        ({"train_file": "a", "task_name": "tokens"}, "task_name='tokens': choose from sequence,"),
        ({"train_file": "a", "max_seq_length": 0}, "max_seq_length=0: must be at least 1"),
        ({"train_file": "a", "max_predict_samples": -1}, "max_predict_samples=-1"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ClassificationDataArguments(**fields)


def test_each_kind_of_data_is_enough():
    for name in ("dataset_name", "train_file", "validation_file"):
        ClassificationDataArguments(**{name: "a"})

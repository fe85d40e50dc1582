import pytest

from reformer_hf.training.data_arguments import DataTrainingArguments


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "dataset_name, train_file and validation_file are all missing"),
        ({"train_file": "a", "validation_split_percentage": 0}, "validation_split_percentage=0"),
        ({"train_file": "a", "block_size": 0}, "block_size=0: must be at least 1"),
        ({"train_file": "a", "packing": "document"}, "packing='document': choose from documents,"),
        ({"train_file": "a", "data_format": "byte"}, "data_format='byte': choose from text, bytes"),
        ({"train_file": "a", "max_train_samples": -1}, "max_train_samples=-1"),
        ({"dataset_name": "a", "data_format": "bytes"}, "data_format='bytes' reads files"),
        ({"train_file": "a", "streaming": True, "data_format": "bytes"}, "leave dataset_name"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DataTrainingArguments(**fields)

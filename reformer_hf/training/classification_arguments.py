"""Which labelled data a classification reads, with the names of transformers' example scripts."""

from dataclasses import dataclass, field
from typing import Literal

from reformer_hf.training.data_arguments import check_choices


def _argument(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass
class ClassificationDataArguments:
    """Where rows come from, and which of their columns are text and labels."""

    task_name: Literal["sequence", "token"] = _argument(
        "sequence", "Classify whole texts ('sequence'), or each word of a list ('token')."
    )
    dataset_name: str | None = _argument(None, "Name of a dataset on the Hub, or a local one.")
    dataset_config_name: str | None = _argument(None, "Configuration of that dataset.")
    train_file: str | None = _argument(
        None, "JSON (.json, .jsonl), CSV (.csv), tab-separated (.tsv) or Parquet (.parquet) file."
    )
    validation_file: str | None = _argument(None, "The same, to evaluate on.")
    test_file: str | None = _argument(None, "The same, to predict.")
    text_column_names: str | None = _argument(
        None,
        "Columns of text, separated by commas; several are joined. Default: 'text' or 'sentence', "
        "for words 'tokens' or 'words'.",
    )
    text_column_delimiter: str = _argument(" ", "What several columns of text are joined by.")
    label_column_name: str | None = _argument(
        None, "Column of labels. Default: 'label' or 'labels', for words 'ner_tags' or 'labels'."
    )
    do_regression: bool | None = _argument(
        None, "Whether labels are numbers to approximate. Default: whether they are fractions."
    )
    max_seq_length: int | None = _argument(
        None, "Tokens of a text; what is longer is cut. Default: the model's longest input."
    )
    label_all_tokens: bool = _argument(
        False, "Give the label of a word to all its tokens, instead of to the last one only."
    )
    validation_split_percentage: int = _argument(
        10, "Share of the training rows that is held out where there is no validation data."
    )
    max_train_samples: int | None = _argument(None, "Train on at most so many rows.")
    max_eval_samples: int | None = _argument(None, "Evaluate on at most so many rows.")
    max_predict_samples: int | None = _argument(None, "Predict at most so many rows.")
    preprocessing_num_workers: int | None = _argument(None, "Processes that tokenise.")
    overwrite_cache: bool = _argument(False, "Tokenise again what is in the cache.")

    def __post_init__(self):
        check_choices(self)
        if self.dataset_name is None and self.train_file is None and self.validation_file is None:
            raise ValueError(
                "dataset_name, train_file and validation_file are all missing: name a dataset of "
                "the Hub or a file of your own"
            )
        if not 0 < self.validation_split_percentage < 100:
            raise ValueError(
                f"validation_split_percentage={self.validation_split_percentage}: "
                "choose a whole number from 1 to 99"
            )
        if self.do_regression and self.task_name == "token":
            raise ValueError("do_regression with task_name='token': words have classes only")
        for name in (
            "max_seq_length",
            "max_train_samples",
            "max_eval_samples",
            "max_predict_samples",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1, or left out")

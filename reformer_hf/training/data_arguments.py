"""Which data a training script reads, with the names of transformers' example scripts."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

Packing = Literal["documents", "blocks", "none"]


def argument(default, help: str, **metadata):
    return field(default=default, metadata={"help": help, **metadata})


def check_choices(arguments: Any) -> None:
    """Check the fields that have choices, which argparse does not do for values of a file.

    Raises:
        ValueError: naming the field, its value and the choices.
    """
    hints = get_type_hints(type(arguments))
    for each in fields(arguments):
        hint, value = hints[each.name], getattr(arguments, each.name)
        listed = get_args(hint) if get_origin(hint) is Literal else ()
        choices = each.metadata.get("choices") or listed
        if choices and value is not None and value not in choices:
            raise ValueError(f"{each.name}={value!r}: choose from {', '.join(map(str, choices))}")


@dataclass
class DataTrainingArguments:
    """Where the text comes from and how it becomes rows of tokens."""

    _argument_group_name = "data"

    dataset_name: str | None = argument(None, "Name of a dataset on the Hub, or a local one.")
    dataset_config_name: str | None = argument(None, "Configuration of that dataset.")
    train_file: str | None = argument(
        None,
        "Text (.txt or any other ending), .json, .jsonl, .csv or .parquet; a pattern such as "
        "'texts/*.txt' names several. A text file is one document.",
    )
    validation_file: str | None = argument(None, "The same, to evaluate on.")
    text_column_name: str | None = argument(
        None, "Column that holds the text. Default: 'text', or else the first column."
    )
    data_format: Literal["text", "bytes"] = argument(
        "text",
        "'bytes' maps train_file and validation_file into memory and reads them byte by byte, "
        "without tokenising them: for ReformerHFByteTokenizer and files of any size.",
    )
    streaming: bool = argument(False, "Read the data while training, without a cache.")
    shuffle_buffer_size: int | None = argument(
        None,
        "Rows among which a stream is shuffled. Default: as many as hold 2 million tokens. Data on "
        "the disk are shuffled as a whole.",
    )
    validation_split_percentage: int = argument(
        5, "Share of the rows that is held out where there is no validation data."
    )
    max_train_samples: int | None = argument(None, "Train on at most so many rows.")
    max_eval_samples: int | None = argument(None, "Evaluate on at most so many rows.")
    block_size: int | None = argument(
        None, "Tokens in a row. Default: the model's longest input, at most 8,192."
    )
    packing: Packing = argument(
        "documents",
        "What a row holds. 'documents': documents side by side which do not see each other; "
        "'blocks': one stream of text cut into blocks; 'none': one document, cut where too long.",
    )
    preprocessing_num_workers: int | None = argument(None, "Processes that tokenise.")
    overwrite_cache: bool = argument(False, "Tokenise again what is in the cache.")
    keep_linebreaks: bool = argument(True, "Keep the line breaks of text files.")

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
        for name in ("max_train_samples", "max_eval_samples", "block_size", "shuffle_buffer_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1, or left out")
        if self.data_format == "bytes" and (self.dataset_name or self.streaming):
            raise ValueError(
                "data_format='bytes' reads files: give train_file and leave dataset_name and "
                "streaming out"
            )

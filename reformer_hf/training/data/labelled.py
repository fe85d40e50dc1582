"""Labelled rows: where they come from, and how texts and labels become tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from reformer_hf.training.arguments import argument, check_source
from reformer_hf.training.data.collator import IGNORE_INDEX
from reformer_hf.training.data.labels import LabelSpace
from reformer_hf.training.data.sources import RowArguments, load, take_first

logger = logging.get_logger(__name__)

_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
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
    seed: int = 0,
) -> dict[str, Dataset]:
    """Open the splits `train`, `validation` and `test`, as far as they are there.

    Without validation data some of the training rows are held out.

    Args:
        arguments: which data.
        cache_dir: where `datasets` keeps it; its default if None.
        token: for private datasets of the Hub.
        seed: of the choice of what is held out.

    Raises:
        OSError: if there is no such dataset or file, or it cannot be read.
        ValueError: if a file's ending is unknown.
    """
    if arguments.dataset_name is not None:
        options: dict[str, Any] = {"name": arguments.dataset_config_name, "token": token}
        splits = load(arguments.dataset_name, cache_dir=cache_dir, **options)
    else:
        files = {split: str(path) for split, path in arguments.find_files().items()}
        endings = {Path(file).suffix.lower() for file in files.values()}
        if len(endings) > 1 or not endings <= _BUILDERS.keys():
            raise ValueError(
                f"files end with {', '.join(sorted(endings))}: give files of one kind, "
                f"{', '.join(_BUILDERS)}"
            )
        ending = endings.pop()
        options = {"sep": "\t" if ending == ".tsv" else ","} if _BUILDERS[ending] == "csv" else {}
        splits = load(
            _BUILDERS[ending], source=files, data_files=files, cache_dir=cache_dir, **options
        )
    if "train" in splits and "validation" not in splits:
        if len(splits["train"]) < 2:
            raise ValueError(
                "the training data are one row, and none is left to evaluate on: give more rows"
            )
        share = arguments.validation_split_percentage / 100
        parts = splits["train"].train_test_split(share, seed=seed)
        splits["train"], splits["validation"] = parts["train"], parts["test"]
    return take_first(splits, arguments)


def choose_columns(
    arguments: ClassificationDataArguments, rows: Dataset
) -> tuple[list[str], str | None]:
    """Find the columns of text and the column of labels, None if there is no such column.

    Raises:
        ValueError: if a named column is not there, or there is none of the usual names.
    """
    names, usual = rows.column_names, _TEXT[arguments.task_name]
    text = (arguments.text_column_names or "").split(",")
    if arguments.text_column_names is None:
        text = [name for name in usual if name in names][:1]
    if not text:
        raise ValueError(
            f"the data have the columns {names}, and none is named {' or '.join(usual)}: "
            "choose text_column_names"
        )
    label = arguments.label_column_name
    if label is None:
        label = next((name for name in _LABELS[arguments.task_name] if name in names), None)
    missing = [name for name in (*text, label) if name is not None and name not in names]
    if missing:
        raise ValueError(f"column {missing[0]!r} is not among those of the data: {names}")
    if arguments.task_name == "token" and len(text) > 1:
        raise ValueError(f"text_column_names={text}: words are in one column")
    return text, label


def tokenize_rows(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    arguments: ClassificationDataArguments,
    labels: LabelSpace,
    limit: int | None,
    labelled: bool = True,
) -> Dataset:
    """Tokenise rows, with their labels.

    Args:
        rows: with columns of text and labels.
        tokenizer: of the model.
        arguments: which columns, and how.
        labels: what the labels mean.
        limit: the model's longest input, None if there is no limit.
        labelled: whether labels are wanted; those of a test split may be made up.

    Returns:
        Rows with `input_ids`, `attention_mask` and, if there is a column of labels, `labels`; of
        words also `words`, which word each token belongs to.

    Raises:
        ValueError: if `max_seq_length` is beyond the limit, a row has no text, or labels are wrong.
    """
    length = arguments.max_seq_length or limit
    if limit is not None and length is not None and length > limit:
        raise ValueError(
            f"max_seq_length={length}: the model has {limit} positions; choose a smaller one, or a "
            "configuration with more"
        )
    text, label = choose_columns(arguments, rows)
    tokenized = rows.map(
        partial(
            _tokenize,
            text=text,
            label=label if labelled else None,
            arguments=arguments,
            labels=labels,
            encode=partial(
                tokenizer, truncation=length is not None, max_length=length, verbose=False
            ),
        ),
        batched=True,
        batch_size=100,
        remove_columns=rows.column_names,
        num_proc=arguments.preprocessing_num_workers,
        load_from_cache_file=not arguments.overwrite_cache,
        desc="Tokenising",
    )
    lengths = [len(ids) for ids in tokenized["input_ids"]]
    if 0 in lengths:
        raise ValueError(f"row {lengths.index(0)} has no text: remove rows without text")
    if length is not None and length in lengths:
        logger.warning(
            f"{lengths.count(length)} of {len(lengths)} texts have max_seq_length={length} tokens "
            "or more: what is beyond is not read"
        )
    return tokenized


def _tokenize(
    batch: Mapping[str, list],
    text: list[str],
    label: str | None,
    arguments: ClassificationDataArguments,
    labels: LabelSpace,
    encode: Any,
) -> dict[str, list]:
    if arguments.task_name == "token":
        # With the spaces that the text had, which are tokens or parts of tokens here.
        texts: list = [
            [f" {word}" if index else word for index, word in enumerate(row)]
            for row in batch[text[0]]
        ]
        encoded = encode(texts, is_split_into_words=True)
    else:
        parts = zip(*(batch[column] for column in text), strict=True)
        texts = [arguments.text_column_delimiter.join(part or "" for part in row) for row in parts]
        encoded = encode(texts)
    found = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    given = [] if label is None else [labels.encode(each) for each in batch[label]]
    if arguments.task_name == "token":
        found["words"] = [encoded.word_ids(row) for row in range(len(texts))]
        rows = zip(texts, given, found["words"], strict=label is not None)
        given = [_spread(*row, arguments.label_all_tokens, labels.names) for row in rows]
    return found if label is None else found | {"labels": given}


def _spread(
    words: list[str],
    numbers: list[int],
    owners: list[int | None],
    over_all: bool,
    names: tuple[str, ...],
) -> list[int]:
    """Put the label of each word at its last token, which has seen all of the word, or at all.

    At all of them, what begins an entity goes on behind the first.
    """
    if len(words) != len(numbers):
        raise ValueError(
            f"a row has {len(words)} words and {len(numbers)} labels: give one per word"
        )
    spread = []
    for word, before, following in zip(owners, [None, *owners], [*owners[1:], None], strict=False):
        if word is None or (not over_all and word == following):
            spread.append(IGNORE_INDEX)
            continue
        name = names[numbers[word]]
        inside = f"I-{name[2:]}"
        goes_on = over_all and word == before and name.startswith("B-") and inside in names
        spread.append(names.index(inside) if goes_on else numbers[word])
    return spread

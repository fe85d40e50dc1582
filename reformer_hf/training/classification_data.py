"""From labelled rows to tokens: open, choose columns, tokenise with labels."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from reformer_hf.training.classification_arguments import ClassificationDataArguments
from reformer_hf.training.labels import LabelSpace

logger = logging.get_logger(__name__)

IGNORE_INDEX = -100
_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_TEXT = {"sequence": ("text", "sentence"), "token": ("tokens", "words")}
_LABELS = {"sequence": ("label", "labels"), "token": ("ner_tags", "labels", "tags")}


def load_rows(
    arguments: ClassificationDataArguments,
    cache_dir: str | None = None,
    token: str | None = None,
    seed: int = 0,
) -> DatasetDict:
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
    options: dict[str, Any] = {"cache_dir": cache_dir}
    if arguments.dataset_name is not None:
        source = arguments.dataset_name
        options |= {"name": arguments.dataset_config_name, "token": token}
    else:
        files = {
            split: path
            for split in ("train", "validation", "test")
            if (path := getattr(arguments, f"{split}_file")) is not None
        }
        source = _builder(files)
        options["data_files"] = files
        if source == "csv":
            tabs = Path(next(iter(files.values()))).suffix.lower() == ".tsv"
            options["sep"] = "\t" if tabs else ","
    try:
        splits: Any = load_dataset(source, **options)
    except Exception as error:  # datasets has a class for each way to fail
        raise OSError(
            f"the data could not be loaded from {options.get('data_files', source)!r} "
            f"({type(error).__name__}: {error}). Check the name, the files and the connection"
        ) from error
    if "train" in splits and "validation" not in splits:
        if len(splits["train"]) < 2:
            raise ValueError(
                "the training data are one row, and none is left to evaluate on: give more rows"
            )
        share = arguments.validation_split_percentage / 100
        parts = splits["train"].train_test_split(share, seed=seed)
        splits["train"], splits["validation"] = parts["train"], parts["test"]
    for split, limit in (
        ("train", arguments.max_train_samples),
        ("validation", arguments.max_eval_samples),
        ("test", arguments.max_predict_samples),
    ):
        if split in splits and limit is not None:
            splits[split] = splits[split].select(range(min(limit, len(splits[split]))))
    return splits


def _builder(files: Mapping[str, str]) -> str:
    endings = {Path(path).suffix.lower() for path in files.values()}
    missing = [path for path in files.values() if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]}: there is no such file; check the path")
    if len(endings) > 1 or not endings <= _BUILDERS.keys():
        raise ValueError(
            f"files end with {', '.join(sorted(endings))}: give files of one kind, "
            f"{', '.join(_BUILDERS)}"
        )
    return _BUILDERS[endings.pop()]


def choose_columns(
    arguments: ClassificationDataArguments, rows: Dataset
) -> tuple[list[str], str | None]:
    """Find the columns of text and the column of labels, None if there is no such column.

    Raises:
        ValueError: if a named column is not there, or there is none of the usual names.
    """
    names = rows.column_names
    if arguments.text_column_names is None:
        usual = _TEXT[arguments.task_name]
        text = [name for name in usual if name in names][:1]
        if not text:
            raise ValueError(
                f"the data have the columns {names}, and none is named {' or '.join(usual)}: "
                "choose text_column_names"
            )
    else:
        text = arguments.text_column_names.split(",")
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
    label = label if labelled else None
    if arguments.task_name == "token":
        function: Any = partial(
            _tokenize_words, column=text[0], all_tokens=arguments.label_all_tokens
        )
    else:
        function = partial(_tokenize_texts, columns=text, delimiter=arguments.text_column_delimiter)
    tokenized = rows.map(
        partial(function, tokenizer=tokenizer, label_column=label, labels=labels, length=length),
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


def _tokenize_texts(
    rows: Mapping[str, list],
    tokenizer: PreTrainedTokenizerBase,
    columns: list[str],
    delimiter: str,
    label_column: str | None,
    labels: LabelSpace,
    length: int | None,
) -> dict[str, list]:
    parts = zip(*(rows[column] for column in columns), strict=True)
    texts = [delimiter.join(part or "" for part in each) for each in parts]
    encoded: Any = tokenizer(texts, truncation=length is not None, max_length=length, verbose=False)
    found = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    if label_column is not None:
        found["labels"] = [labels.encode(label) for label in rows[label_column]]
    return found


def _tokenize_words(
    rows: Mapping[str, list],
    tokenizer: PreTrainedTokenizerBase,
    column: str,
    all_tokens: bool,
    label_column: str | None,
    labels: LabelSpace,
    length: int | None,
) -> dict[str, list]:
    # With the spaces that the text had, which are tokens or parts of tokens here.
    texts = [
        [f" {word}" if index else word for index, word in enumerate(row)] for row in rows[column]
    ]
    encoded: Any = tokenizer(
        texts,
        is_split_into_words=True,
        truncation=length is not None,
        max_length=length,
        verbose=False,
    )
    found = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    found["words"] = [encoded.word_ids(row) for row in range(len(texts))]
    if label_column is None:
        return found
    found["labels"] = []
    for row, (words, given) in enumerate(zip(texts, rows[label_column], strict=True)):
        if len(words) != len(given or ()):
            raise ValueError(
                f"a row has {len(words)} words and {len(given or ())} labels: give one per word"
            )
        numbers, owners = labels.encode(given), found["words"][row]
        spread = _spread_over_all if all_tokens else _put_on_last
        found["labels"].append(spread(numbers, owners, labels))
    return found


def _put_on_last(numbers: list[int], owners: list[int | None], labels: LabelSpace) -> list[int]:
    """The label of a word at its last token, which has seen all of the word."""
    return [
        IGNORE_INDEX if word is None or following == word else numbers[word]
        for word, following in zip(owners, [*owners[1:], None], strict=True)
    ]


def _spread_over_all(numbers: list[int], owners: list[int | None], labels: LabelSpace) -> list[int]:
    """The label of a word at all its tokens; what begins an entity goes on behind the first."""
    inside = {
        number: labels.names.index(f"I-{name[2:]}")
        for number, name in enumerate(labels.names)
        if name.startswith("B-") and f"I-{name[2:]}" in labels.names
    }
    return [
        IGNORE_INDEX
        if word is None
        else inside.get(numbers[word], numbers[word])
        if word == before
        else numbers[word]
        for word, before in zip(owners, [None, *owners[:-1]], strict=True)
    ]

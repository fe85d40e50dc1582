"""Labelled rows: where they come from, and how texts and labels become tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from reformer_hf.training.argument_checks import check_source
from reformer_hf.training.arguments import argument
from reformer_hf.training.data.collator import IGNORE_INDEX
from reformer_hf.training.data.files import open_rows
from reformer_hf.training.data.labels import LabelSpace, recognise_numbers
from reformer_hf.training.data.reading import separator_hint, shorten, text_of
from reformer_hf.training.data.sources import SPLITS, RowArguments, load, take_first

logger = logging.get_logger(__name__)

PLACE = "_place"
"""Column that says where a row stands, for errors; rows are held out in another order."""

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
        ValueError: if a file is malformed, or a column is missing.
    """
    if arguments.dataset_name is not None:
        options: dict[str, Any] = {"name": arguments.dataset_config_name, "token": token}
        found = load(arguments.dataset_name, cache_dir=cache_dir, **options)
        splits = {
            split: _with_places(found[split], f"{arguments.dataset_name}, {split}")
            for split in SPLITS
            if split in found
        }
    else:
        splits = _open_files(arguments, cache_dir)
    if "train" in splits and "validation" not in splits:
        if len(splits["train"]) < 2:
            raise ValueError(
                "the training data are one row, and none is left to evaluate on: give more rows"
            )
        share = arguments.validation_split_percentage / 100
        parts = splits["train"].train_test_split(share, seed=seed)
        splits["train"], splits["validation"] = parts["train"], parts["test"]
    return take_first(splits, arguments)


def _open_files(
    arguments: ClassificationDataArguments, cache_dir: str | None
) -> dict[str, Dataset]:
    splits = {}
    for split, path in arguments.find_files().items():
        label = None

        def choose(names: list[str], labelled: bool = split != "test") -> list[str]:
            nonlocal label
            text, label = choose_columns(arguments, names, labelled)
            return list(dict.fromkeys([*text, *([] if label is None else [label])]))

        rows: Any = open_rows({split: [path]}, cache_dir=cache_dir, choose=choose)[split]
        if label is not None and path.suffix.lower() in (".csv", ".tsv"):
            rows = recognise_numbers(rows, label)
        splits[split] = _with_places(rows, str(path))
    return splits


def _with_places(rows: Dataset, source: str) -> Dataset:
    places = [f"{source}: row {number:,}" for number in range(1, len(rows) + 1)]
    return rows.add_column(PLACE, places)  # type: ignore[call-arg]


def choose_columns(
    arguments: ClassificationDataArguments, names: Sequence[str], labelled: bool = True
) -> tuple[list[str], str | None]:
    """Find the columns of text and the column of labels, None if there is no such column.

    Args:
        arguments: which name them, or not.
        names: of all columns.
        labelled: whether a named column of labels must be there.

    Raises:
        ValueError: if a named column is not there, or there is none of the usual names.
    """
    names, usual = [name for name in names if name != PLACE], _TEXT[arguments.task_name]
    text = (arguments.text_column_names or "").split(",")
    if arguments.text_column_names is None:
        text = [name for name in usual if name in names][:1]
    if not text:
        raise ValueError(
            f"the data have the columns {names}, and none is named {' or '.join(usual)}: "
            f"choose text_column_names{separator_hint(names)}"
        )
    label = arguments.label_column_name
    if not labelled and label not in names:
        label = None
    if label is None:
        label = next((name for name in _LABELS[arguments.task_name] if name in names), None)
    missing = [name for name in (*text, label) if name is not None and name not in names]
    if missing:
        raise ValueError(
            f"column {missing[0]!r} is not among those of the data: {names}{separator_hint(names)}"
        )
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
        words also `words`, which word each token belongs to, and `word_count`.

    Raises:
        ValueError: if `max_seq_length` is beyond the limit, a row has no text, or labels are wrong.
    """
    length = arguments.max_seq_length or limit
    if limit is not None and length is not None and length > limit:
        raise ValueError(
            f"max_seq_length={length}: the model has {limit} positions; choose a smaller one, or a "
            "configuration with more"
        )
    text, label = choose_columns(arguments, rows.column_names, labelled)
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
        with_indices=True,
        batched=True,
        batch_size=100,
        remove_columns=rows.column_names,
        num_proc=arguments.preprocessing_num_workers,
        load_from_cache_file=not arguments.overwrite_cache,
        desc="Tokenising",
    )
    lengths = [len(ids) for ids in tokenized["input_ids"]]
    if length is not None and length in lengths:
        logger.warning(
            f"{lengths.count(length)} of {len(lengths)} texts have max_seq_length={length} tokens "
            "or more: what is beyond is not read"
        )
    return tokenized


def _tokenize(
    batch: Mapping[str, list],
    indices: list[int],
    text: list[str],
    label: str | None,
    arguments: ClassificationDataArguments,
    labels: LabelSpace,
    encode: Any,
) -> dict[str, list]:
    places = batch.get(PLACE) or [f"row {index + 1:,}" for index in indices]
    by_words = arguments.task_name == "token"
    for column in text:
        for place, value in zip(places, batch[column], strict=True):
            _check_text(value, by_words, f"{place}: column {column!r}")
    if by_words:
        # With the spaces that the text had, which are tokens or parts of tokens here.
        texts: list = [
            [f" {word}" if index else word for index, word in enumerate(row)]
            for row in batch[text[0]]
        ]
        encoded = encode(texts, is_split_into_words=True)
    else:
        parts = zip(*(batch[column] for column in text), strict=True)
        texts = [arguments.text_column_delimiter.join(row) for row in parts]
        encoded = encode(texts)
    found = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    for place, ids in zip(places, found["input_ids"], strict=True):
        if not ids:
            raise ValueError(f"{place} has no text: remove rows without text")
    if by_words:
        found["words"] = [encoded.word_ids(row) for row in range(len(texts))]
        found["word_count"] = [len(words) for words in texts]
    if label is not None:
        found["labels"] = []
        for row, (place, value) in enumerate(zip(places, batch[label], strict=True)):
            try:
                given = labels.encode(value)
                if by_words:
                    owners = found["words"][row], found["word_count"][row]
                    given = _spread(*owners, given, arguments.label_all_tokens, labels.names)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
            found["labels"].append(given)
    return found


def _check_text(value: Any, by_words: bool, place: str) -> None:
    if by_words and not isinstance(value, list):
        raise ValueError(f"{place} holds {shorten(value)}: give a list of words")
    for text in value if by_words else [value]:
        text_of(text, place)


def _spread(
    owners: list[int | None],
    word_count: int,
    numbers: list[int],
    over_all: bool,
    names: tuple[str, ...],
) -> list[int]:
    """Put the label of each word at its last token, which has seen all of the word, or at all.

    At all of them, what begins an entity goes on behind the first.
    """
    if word_count != len(numbers):
        raise ValueError(f"{word_count} words and {len(numbers)} labels: give one per word")
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

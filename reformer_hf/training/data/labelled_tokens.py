"""Labelled rows as tokens and numbers, for a classifier of texts or of words."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from reformer_hf.training.data.collator import IGNORE_INDEX
from reformer_hf.training.data.labelled import (
    PLACE,
    ClassificationDataArguments,
    choose_columns,
)
from reformer_hf.training.data.labels import LabelSpace
from reformer_hf.training.data.reading import shorten, text_of

logger = logging.get_logger(__name__)


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
        texts = join_texts(batch, text, arguments.text_column_delimiter)
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
                    given = spread_labels(*owners, given, arguments.label_all_tokens, labels.names)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
            found["labels"].append(given)
    return found


def join_texts(batch: Mapping[str, list], columns: Sequence[str], delimiter: str) -> list[str]:
    """The text of each row, its columns joined."""
    parts = zip(*(batch[column] for column in columns), strict=True)
    return [delimiter.join(row) for row in parts]


def _check_text(value: Any, by_words: bool, place: str) -> None:
    if by_words and not isinstance(value, list):
        raise ValueError(f"{place} holds {shorten(value)}: give a list of words")
    for text in value if by_words else [value]:
        text_of(text, place)


def spread_labels(
    owners: list[int | None],
    word_count: int,
    numbers: list[int],
    over_all: bool,
    names: tuple[str, ...],
) -> list[int]:
    """Put the label of each word at its last token, which has seen all of the word, or at all.

    At all of them, what begins an entity goes on behind the first.

    Args:
        owners: the word of each token, None for a special token.
        word_count: how many words there are, those without a token included.
        numbers: the label of each word.
        over_all: whether all tokens of a word get it.
        names: of the labels, by number.

    Returns:
        Labels of the tokens, -100 where there is none.

    Raises:
        ValueError: if there is not one label per word.
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

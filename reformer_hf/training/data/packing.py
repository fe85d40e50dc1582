"""From texts to rows of one length: tokenised in parallel, cached on the disk, in their order."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset, Features, IterableDataset, List, Value
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from reformer_hf.training.arguments import Packing
from reformer_hf.training.data.documents import (
    BEGINS_DOCUMENT,
    ENDS_DOCUMENT,
    DocumentTokenizer,
)
from reformer_hf.training.data.files import readable_causes
from reformer_hf.training.data.reading import separator_hint, text_of

logger = logging.get_logger(__name__)

_BATCH = 32  # documents, which may be long: the results of a batch are held in memory
_BUFFER = 1 << 18  # tokens that are held before they are written, as Python's numbers


def tokenize_documents(
    texts: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    text_column_name: str | None = None,
    num_workers: int | None = None,
    overwrite_cache: bool = False,
) -> Any:
    """Tokenise each text; the end-of-sequence token, where there is one, ends each document.

    What else the tokenizer adds, such as a beginning of sequence, stands once in each, too.

    Args:
        texts: rows with a column of text; with columns named `begins_document` and `ends_document`,
            pieces of documents.
        tokenizer: of the model.
        text_column_name: default `text`, or else the first column.
        num_workers: processes; not for streams, which are read as they come.
        overwrite_cache: whether to ignore what was tokenised before.

    Returns:
        A dataset of the same kind with the columns `input_ids` and `ends_document`.

    Raises:
        ValueError: if there is no such column, or what it holds is no text.
    """
    columns = column_names(texts)
    features = Features({"input_ids": List(Value("int32")), ENDS_DOCUMENT: Value("bool")})
    function = partial(
        _tokenize,
        tokenizer=DocumentTokenizer(tokenizer),
        column=choose_text_column(columns, text_column_name),
    )
    options: dict[str, Any] = {
        "with_indices": True,
        "batched": True,
        "batch_size": _BATCH,
        "remove_columns": columns,
        "features": features,  # known also where the first documents are empty
    }
    if isinstance(texts, IterableDataset):
        return texts.map(function, **options)
    return texts.map(
        function,
        **options,
        writer_batch_size=_BATCH,
        num_proc=num_workers,
        load_from_cache_file=not overwrite_cache,
        desc="Tokenising",
    )


def column_names(rows: Dataset | IterableDataset) -> list[str]:
    """The columns of rows; of a stream that does not know them, those of its first rows."""
    return list(rows.column_names or {name: None for row in rows.take(_BATCH) for name in row})


def choose_text_column(names: Sequence[str], wanted: str | None = None) -> str:
    """Find the column of text: the wanted one, by default `text`, or else the first.

    Raises:
        ValueError: if there is no such column.
    """
    column = wanted or ("text" if "text" in names else next(filter(None, names), ""))
    hint = separator_hint(names)
    if column not in names or (wanted is None and hint):
        raise ValueError(f"text_column_name={column!r}: the data has the columns {names}{hint}")
    if wanted is None and column != "text" and len(names) > 1:
        logger.warning_once(
            f"the text is read from column {column!r}; text_column_name chooses another one of "
            f"{names}"
        )
    return column


def document_of(value: Any, column: str, number: int) -> str:
    """The text of a document, empty where there is none; `number` is that of the row.

    Raises:
        ValueError: if it is a number or something else.
    """
    return "" if value is None else text_of(value, f"row {number:,}: column {column!r}")


def _tokenize(
    rows: Mapping[str, list], indices: list[int], tokenizer: DocumentTokenizer, column: str
) -> dict[str, list]:
    values = rows.get(column) or [None] * len(indices)  # in a stream rows may lack it
    pairs = zip(values, indices, strict=True)
    texts = [document_of(value, column, index + 1) for value, index in pairs]
    whole = [True] * len(texts)
    begins, ends = rows.get(BEGINS_DOCUMENT, whole), rows.get(ENDS_DOCUMENT, whole)
    return {"input_ids": tokenizer(texts, begins, ends), ENDS_DOCUMENT: ends}


def pack_rows(
    documents: Dataset | IterableDataset,
    block_size: int,
    packing: Packing = "documents",
    cache_dir: str | None = None,
) -> Any:
    """Lay documents into rows of `block_size` tokens; no token is lost, the last row is shorter.

    With `packing="documents"` each row says in `seq_idx` which document a token belongs to, so
    documents do not see each other and the rows cost what full ones cost. A document that meets the
    end of a row goes on in the next one, where it begins anew. `"blocks"` knows no documents, and
    `"none"` gives each a row of its own, or several where it is longer.

    Args:
        documents: as :func:`tokenize_documents` gives them.
        block_size: tokens in a row.
        packing: what a row holds.
        cache_dir: where `datasets` keeps the rows; its default if None.

    Returns:
        A dataset of the same kind with the columns `input_ids` and, for documents, `seq_idx`.
    """
    columns = ("input_ids", "seq_idx") if packing == "documents" else ("input_ids",)
    features = Features({column: List(Value("int32")) for column in columns})
    stream = isinstance(documents, IterableDataset)
    settings = {
        # Streams would be made arrays number by number.
        "documents": documents if stream else documents.with_format("numpy"),
        "block_size": block_size,
        "packing": packing,
    }
    if stream:
        return IterableDataset.from_generator(_rows, features, gen_kwargs=settings)
    with readable_causes():
        return Dataset.from_generator(
            _rows,
            features,
            gen_kwargs=settings,
            cache_dir=cache_dir,  # type: ignore[arg-type]
            fingerprint=Hasher.hash((documents._fingerprint, block_size, packing)),
            writer_batch_size=max(1, _BUFFER // block_size),
        )


def _rows(documents, block_size: int, packing: Packing) -> Iterator[dict[str, list[int]]]:
    ids, numbers = np.empty(block_size, np.int32), np.empty(block_size, np.int32)
    filled = number = 0
    found = False

    def row() -> dict[str, list[int]]:
        columns = {"input_ids": ids[:filled].tolist()}
        if packing == "documents":
            columns["seq_idx"] = numbers[:filled].tolist()
        return columns

    for document in documents:
        tokens = np.asarray(document["input_ids"], np.int32)
        found |= len(tokens) > 0
        while len(tokens):
            end = min(filled + len(tokens), block_size)
            ids[filled:end], numbers[filled:end] = tokens[: end - filled], number
            tokens, filled = tokens[end - filled :], end
            if filled == block_size:
                yield row()
                filled = number = 0
        if document[ENDS_DOCUMENT]:
            number += 1
            if packing == "none" and filled:
                yield row()
                filled = 0
    if filled:
        yield row()
    if not found:
        raise ValueError("the data hold no text: give files or a column with text")

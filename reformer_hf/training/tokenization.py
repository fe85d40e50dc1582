"""From texts to token ids: in parallel, cached on the disk, in the order of the texts."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from reformer_hf.training.texts import ENDS_DOCUMENT

_BATCH = 32  # documents, which may be long: the results of a batch are held in memory


def tokenize_documents(
    texts: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    text_column_name: str | None = None,
    num_workers: int | None = None,
    overwrite_cache: bool = False,
) -> Any:
    """Tokenise each text; the end-of-sequence token, where there is one, ends each document.

    Args:
        texts: rows with a column of text; with one named `ends_document`, pieces of documents.
        tokenizer: of the model.
        text_column_name: default `text`, or else the first column.
        num_workers: processes; not for streams, which are read as they come.
        overwrite_cache: whether to ignore what was tokenised before.

    Returns:
        A dataset of the same kind with the columns `input_ids` and `ends_document`.

    Raises:
        ValueError: if there is no such column.
    """
    columns = list(texts.column_names or next(iter(texts)))
    column = text_column_name or ("text" if "text" in columns else columns[0])
    if column not in columns:
        raise ValueError(f"text_column_name={column!r}: the data has the columns {columns}")
    function = partial(_tokenize, tokenizer=tokenizer, column=column)
    options: dict[str, Any] = {"batched": True, "batch_size": _BATCH, "remove_columns": columns}
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


def _tokenize(
    rows: Mapping[str, list], tokenizer: PreTrainedTokenizerBase, column: str
) -> dict[str, list]:
    texts = [text or "" for text in rows[column]]
    ends = rows.get(ENDS_DOCUMENT) or [True] * len(texts)
    # Without a warning that a document is longer than the model's input: it is cut later.
    all_ids = tokenizer(texts, verbose=False)["input_ids"] if texts else []
    eos = tokenizer.eos_token_id
    for text, ids, end in zip(texts, all_ids, ends, strict=True):
        if eos is not None and text and end and ids[-1:] != [eos]:
            ids.append(eos)
    return {"input_ids": all_ids, ENDS_DOCUMENT: ends}

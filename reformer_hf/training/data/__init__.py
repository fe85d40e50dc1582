"""From a corpus to training windows: a split, two memory-mapped files of token ids, a dataset."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from reformer_hf.models.tokenization_reformer_hf import (
    BYTE_VOCABULARY,
    EOS_TOKEN,
    FIRST_BYTE_ID,
)
from reformer_hf.training.corpus import Corpus, Document
from reformer_hf.training.storage import new_directory, write_json

_DTYPE = np.dtype("<u2")
_BLOCK = 1 << 20  # bytes converted at a time
_FEW = 100  # documents; of fewer, a split by document may leave one part empty
_PARTS = ("train", "held_out")


@dataclass(frozen=True)
class CorpusRecord:
    """What a run is trained and evaluated on, enough to tell it from any other corpus."""

    description: str
    sha256: str  # over names, sizes and contents of all documents
    validation_split_percentage: int
    split: str  # in words
    documents: int
    bytes: int
    train_documents: int
    train_bytes: int
    held_out_documents: int
    held_out_bytes: int


class TokenWindows(Dataset):
    """Consecutive windows over a file of token ids, read from the disk when asked for.

    Args:
        path: file of 16-bit ids.
        block_size: tokens in a window; what is left over at the end of the file is not used.
    """

    def __init__(self, path: Path, block_size: int):
        self.block_size = block_size
        self.tokens = np.memmap(path, _DTYPE, mode="r")

    def __len__(self) -> int:
        return len(self.tokens) // self.block_size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index * self.block_size
        ids = torch.from_numpy(self.tokens[start : start + self.block_size].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


def spread(dataset: Dataset, count: int) -> Subset:
    """Choose at most `count` items of a dataset, evenly spread over all of them."""
    size = len(dataset)  # type: ignore[arg-type]
    count = min(count, size)
    return Subset(dataset, [index * size // count for index in range(count)])


def load_splits(
    corpus: Corpus, record: CorpusRecord, directory: Path, block_size: int
) -> tuple[TokenWindows, TokenWindows]:
    """Open the training and the held-out windows, writing their token ids first if need be.

    Args:
        corpus: the documents.
        record: what :func:`describe_corpus` says of them.
        directory: for the token ids; rewritten if it does not hold those of this corpus, whole.
        block_size: tokens in a window.

    Raises:
        OSError: if the corpus cannot be read, changes meanwhile, or the ids cannot be written.
        ValueError: if a part of the split is shorter than one window.
    """
    for part in _PARTS:
        size = _token_count(record, part)
        if size < block_size:
            raise ValueError(
                f"corpus: {record.description}, {record.bytes:,} bytes; its {part} part of "
                f"{size:,} tokens is shorter than one window of block_size={block_size}. Take "
                "more text, a smaller block_size, or another validation_split_percentage (now "
                f"{record.validation_split_percentage})"
            )
    if not _holds(directory, record):
        shutil.rmtree(directory, ignore_errors=True)
        with new_directory(directory) as temporary:
            _write_tokens(corpus, temporary, record)
            write_json(temporary / "corpus.json", asdict(record))
    train, held_out = (TokenWindows(directory / f"{part}.bin", block_size) for part in _PARTS)
    return train, held_out


def describe_corpus(corpus: Corpus, percentage: int) -> CorpusRecord:
    """Read all documents once, to count and hash them."""
    digest, documents = hashlib.sha256(), 0
    for document in corpus.documents():
        documents += 1
        digest.update(f"{document.name}\0{document.content.size}\0".encode())
        digest.update(memoryview(document.content))  # type: ignore[arg-type]
    by_document = documents >= _FEW
    counts = np.zeros((2, 2), np.int64)  # train and held out; documents and bytes
    for document in corpus.documents():
        for part, content in enumerate(_split(document, percentage, by_document)):
            counts[part] += (content.size > 0, content.size)
    return CorpusRecord(
        corpus.description,
        digest.hexdigest(),
        percentage,
        f"{percentage}% of the documents, by a hash of the name"
        if by_document
        else f"the last {percentage}% of each document",
        documents,
        int(counts[:, 1].sum()),
        *counts.flatten().tolist(),
    )


def _split(document: Document, percentage: int, by_document: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cut a document into what is trained on and what is held out."""
    cut = document.content.size * (100 - percentage) // 100
    if by_document:
        digest = hashlib.blake2b(document.name.encode(), digest_size=8).digest()
        held_out = int.from_bytes(digest, "little") % 100 < percentage
        cut = 0 if held_out else document.content.size
    return document.content[:cut], document.content[cut:]


def _write_tokens(corpus: Corpus, directory: Path, record: CorpusRecord) -> None:
    percentage, by_document = record.validation_split_percentage, record.documents >= _FEW
    with ExitStack() as stack:
        files = [stack.enter_context((directory / f"{part}.bin").open("wb")) for part in _PARTS]
        for document in corpus.documents():
            contents = _split(document, percentage, by_document)
            for file, content in zip(files, contents, strict=True):
                for ids in _token_ids(content) if content.size else ():
                    file.write(ids.tobytes())
    for part in _PARTS:
        written = (directory / f"{part}.bin").stat().st_size // _DTYPE.itemsize
        if written != _token_count(record, part):
            raise OSError(f"{corpus.description} changed while it was read; run again")


def _token_ids(content: np.ndarray) -> Iterator[np.ndarray]:
    """Encode a document, followed by the end-of-sequence token, block by block."""
    for start in range(0, content.size, _BLOCK):
        yield content[start : start + _BLOCK].astype(_DTYPE) + _DTYPE.type(FIRST_BYTE_ID)
    yield np.array([BYTE_VOCABULARY[EOS_TOKEN]], _DTYPE)


def bytes_of(ids: np.ndarray | Tensor) -> bytes:
    """Decode token ids, leaving out the special ones."""
    ids = np.asarray(ids)
    return (ids[ids >= FIRST_BYTE_ID] - FIRST_BYTE_ID).astype(np.uint8).tobytes()


def _token_count(record: CorpusRecord, part: str) -> int:
    return getattr(record, f"{part}_bytes") + getattr(record, f"{part}_documents")


def _holds(directory: Path, record: CorpusRecord) -> bool:
    """Say whether a folder has the token ids of this corpus, whole."""
    try:
        same = json.loads((directory / "corpus.json").read_text()) == asdict(record)
        sizes = {part: (directory / f"{part}.bin").stat().st_size for part in _PARTS}
    except (OSError, ValueError):
        return False
    return same and all(
        size == _DTYPE.itemsize * _token_count(record, part) for part, size in sizes.items()
    )

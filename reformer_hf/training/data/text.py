"""From arguments to the rows of a language model: find, load, tokenise, pack, hold out, limit.

Text comes from the Hub or from files, on the disk or as a stream, and is never in memory as a
whole.
"""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Value,
)
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.training.arguments import DataTrainingArguments
from reformer_hf.training.data.bytes import ByteRows, check_byte_tokenizer
from reformer_hf.training.data.documents import BEGINS_DOCUMENT, ENDS_DOCUMENT, read_document
from reformer_hf.training.data.files import TABLES, file_versions, open_rows, readable_causes
from reformer_hf.training.data.packing import choose_text_column, pack_rows, tokenize_documents
from reformer_hf.training.data.reading import open_text
from reformer_hf.training.data.rows import (
    check_length,
    first_rows,
    split_validation,
    spread_rows,
)
from reformer_hf.training.data.sources import describe_rows, load, tables_of_folder

Texts = DatasetDict | IterableDatasetDict

logger = logging.get_logger(__name__)

LONGEST_BLOCK = 8192
_SHUFFLED_TOKENS = 1 << 21  # of a stream, held in memory as Python's numbers
_PROBE = 8192  # bytes in which a NUL marks a file as binary, as git does it
_PIECES = Features(
    {"text": Value("string"), BEGINS_DOCUMENT: Value("bool"), ENDS_DOCUMENT: Value("bool")}
)


class LanguageModelData(NamedTuple):
    """Rows with `input_ids`, and `seq_idx` where they hold documents; None for what is not given.

    Attributes:
        train: to train on.
        validation: to evaluate on.
        block_size: tokens in a row.
    """

    train: Any
    validation: Any
    block_size: int


def load_language_model_data(
    arguments: DataTrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    config: ReformerHFConfig,
    cache_dir: str | None = None,
    token: str | None = None,
    seed: int = 0,
    exclude: Path | None = None,
) -> LanguageModelData:
    """Make the rows that the arguments describe.

    Args:
        arguments: which data, and how.
        tokenizer: of the model.
        config: of the model, which limits the length of a row.
        cache_dir: where `datasets` keeps its files.
        token: for private datasets.
        seed: of the order of a stream.
        exclude: a folder whose files are no data, such as the run's own output.

    Raises:
        OSError: if data cannot be found or read.
        ValueError: if rows are too long for the model, or there are too few.
    """
    block_size = choose_block_size(arguments.block_size, config)
    if config.attention_scope == "chunk" and arguments.packing == "documents":
        raise ValueError(
            "packing='documents' with attention_scope='chunk', whose chunks mix documents: choose "
            "packing='blocks' or 'none'"
        )
    if arguments.data_format == "bytes":
        rows = _byte_rows(arguments, tokenizer, block_size, exclude)
    else:
        rows = {
            split: pack_rows(
                tokenize_documents(
                    texts,
                    tokenizer,
                    arguments.text_column_name,
                    arguments.preprocessing_num_workers,
                    arguments.overwrite_cache,
                ),
                block_size,
                arguments.packing,
                cache_dir,
            )
            for split, texts in load_texts(arguments, cache_dir, token, exclude).items()
        }
    train, validation = rows.get("train"), rows.get("validation")
    if train is not None and validation is None:
        train, validation = split_validation(train, arguments.validation_split_percentage)
    for name, part in (("training", train), ("evaluation", validation)):
        check_length(name, part, block_size)
    train = first_rows(train, arguments.max_train_samples) if train is not None else None
    if arguments.streaming and train is not None:
        size = arguments.shuffle_buffer_size or max(2, _SHUFFLED_TOKENS // block_size)
        train = train.shuffle(seed=seed, buffer_size=size)
    choose = spread_rows if arguments.data_format == "bytes" else first_rows
    return LanguageModelData(train, choose(validation, arguments.max_eval_samples), block_size)


def choose_block_size(block_size: int | None, config: ReformerHFConfig) -> int:
    """Take the given number of tokens in a row, or what suits the model.

    Raises:
        ValueError: if it is longer than the model's longest input.
    """
    limit = config.position_limit
    if block_size is None:
        block_size = min(limit or LONGEST_BLOCK, LONGEST_BLOCK)
        logger.info(f"block_size: {block_size} tokens in a row")
    if limit is not None and block_size > limit:
        raise ValueError(
            f"block_size={block_size}: the model has {limit} positions; choose a smaller "
            "block_size, or a configuration with a larger axial_pos_shape"
        )
    return block_size


def _byte_rows(
    arguments: DataTrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    exclude: Path | None,
) -> dict[str, ByteRows]:
    check_byte_tokenizer(tokenizer)
    files = _files(arguments, exclude)
    return {split: ByteRows(paths, block_size) for split, paths in files.items()}


def data_settings(arguments: DataTrainingArguments, exclude: Path | None = None) -> dict[str, Any]:
    """What `describe_rows` says of the data.

    Args:
        arguments: which data.
        exclude: as for :func:`load_language_model_data`.

    Returns:
        JSON values.
    """
    files = [] if arguments.train_file is None else _files(arguments, exclude)["train"]
    return describe_rows(arguments, files)


def load_texts(
    arguments: DataTrainingArguments,
    cache_dir: str | None = None,
    token: str | None = None,
    exclude: Path | None = None,
) -> Texts:
    """Open the splits `train` and `validation`, as far as they are there.

    A text file is cut into pieces, so that its size does not matter; the column `ends_document`
    says which of them is the last. Rows of other sources are whole documents.

    Args:
        arguments: which data.
        cache_dir: where `datasets` keeps it; its default if None.
        token: for private datasets of the Hub.
        exclude: as for :func:`load_language_model_data`.

    Raises:
        OSError: if there is no such dataset, or no file of that name.
        ValueError: if a file has another kind than the first, or is malformed or empty.
    """
    name, config_name = arguments.dataset_name, arguments.dataset_config_name
    files = tables_of_folder(name, config_name, "text")
    files = {split: files[split] for split in ("train", "validation") if split in files}
    if name is not None and not files:
        texts = load(
            name,
            "text",
            name=config_name,
            streaming=arguments.streaming,
            cache_dir=cache_dir,
            token=token,
        )
        return texts.__class__({k: v for k, v in texts.items() if k in ("train", "validation")})
    files = files or _files(arguments, exclude)
    tables = {p.suffix.lower() in TABLES for paths in files.values() for p in paths}
    if len(tables) > 1:
        names = sorted(path.name for paths in files.values() for path in paths)
        raise ValueError(
            f"train_file, validation_file: {names[:4]} are of different kinds; give either texts "
            f"or rows ({', '.join(TABLES)})"
        )
    if tables == {True}:
        return open_rows(
            files,
            streaming=arguments.streaming,
            cache_dir=cache_dir,
            choose=lambda names: [choose_text_column(names, arguments.text_column_name)],
        )
    texts: Any = {split: _text_files(paths, arguments, cache_dir) for split, paths in files.items()}
    return (IterableDatasetDict if arguments.streaming else DatasetDict)(texts)


def find_files(name: str, pattern: str, exclude: Path | None = None) -> list[Path]:
    """Find the files that a path, a folder or a pattern names, in order.

    Hidden files and installed packages are left out unless the pattern names their folder, and of
    a folder also empty and binary files. Links are followed, and each file is named once.

    Args:
        name: of the argument, for errors.
        pattern: what it holds; `**` stands for any number of folders.
        exclude: a folder whose files are left out.

    Raises:
        OSError: if there are none, or one cannot be read.
    """
    path = Path(pattern).expanduser()
    is_folder = path.is_dir()
    is_name = is_folder or path.is_file()  # though it may look like a pattern, as notes[1].txt does
    everything = glob.escape(str(path)) + "/**" * is_folder if is_name else str(path)
    found = glob.glob(everything, recursive=True)
    left_out = {"site-packages", "dist-packages"} - set(path.parts)
    named = [each for each in map(Path, found) if not left_out & set(each.parts)]
    # Of several names of a file its own ending counts first: links of the Hub lead to bare hashes.
    best_last = sorted(
        named,
        key=lambda each: (each.suffix.lower() not in TABLES, len(each.parts), str(each)),
        reverse=True,
    )
    once = {os.path.realpath(each): each for each in best_last}
    paths = [
        each
        for each in sorted(once.values(), key=str)
        if not each.is_dir()
        and not (exclude is not None and each.resolve().is_relative_to(exclude.resolve()))
        and (not is_folder or each.suffix.lower() in TABLES or _is_text(each))
    ]
    if not paths and is_folder:
        raise FileNotFoundError(f"{name}={pattern}: the folder holds no text; name another one")
    if not paths:
        raise FileNotFoundError(f"{name}={pattern}: there is no such file; check the path")
    return paths


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_PROBE)
    return bool(start) and b"\0" not in start


def _files(arguments: DataTrainingArguments, exclude: Path | None) -> dict[str, list[Path]]:
    """The files that the arguments name, by split."""
    return {
        split: find_files(name, pattern, exclude)
        for split, name in (("train", "train_file"), ("validation", "validation_file"))
        if (pattern := getattr(arguments, name)) is not None
    }


def _text_files(
    paths: list[Path], arguments: DataTrainingArguments, cache_dir: str | None
) -> Dataset | IterableDataset:
    options: dict[str, Any] = {
        "features": _PIECES,
        "gen_kwargs": {
            "files": file_versions(paths),
            "keep_linebreaks": arguments.keep_linebreaks,
        },
    }
    if arguments.streaming:
        return IterableDataset.from_generator(_read_pieces, **options)
    with readable_causes():
        return Dataset.from_generator(_read_pieces, **options, cache_dir=cache_dir)  # type: ignore


def _read_pieces(
    files: list[tuple[str, int, int, int]], keep_linebreaks: bool
) -> Iterator[dict[str, Any]]:
    """Read text files piece by piece."""
    piece = None
    for path, *_ in files:
        with open_text(Path(path)) as file:
            for piece in read_document(file, keep_linebreaks):
                yield piece
    if piece is None:
        raise ValueError(f"{files[0][0]}: a file without text; name one with text")

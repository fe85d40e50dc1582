"""From arguments to the rows of a language model: load, tokenise, pack, hold out, limit."""

from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.training.byte_rows import ByteRows
from reformer_hf.training.data_arguments import DataTrainingArguments
from reformer_hf.training.packing import pack_rows
from reformer_hf.training.rows import first_rows, split_validation
from reformer_hf.training.texts import find_files, load_texts
from reformer_hf.training.tokenization import tokenize_documents

logger = logging.get_logger(__name__)

_LONGEST_DEFAULT = 8192
_SHUFFLED_TOKENS = 1 << 21  # of a stream, held in memory as Python's numbers


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
) -> LanguageModelData:
    """Make the rows that the arguments describe.

    Args:
        arguments: which data, and how.
        tokenizer: of the model.
        config: of the model, which limits the length of a row.
        cache_dir: where `datasets` keeps its files.
        token: for private datasets.
        seed: of the order of a stream.

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
        rows = _byte_rows(arguments, tokenizer, block_size)
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
            for split, texts in load_texts(arguments, cache_dir, token).items()
        }
    train, validation = rows.get("train"), rows.get("validation")
    if train is not None and validation is None:
        train, validation = split_validation(train, arguments.validation_split_percentage)
    train = first_rows(train, arguments.max_train_samples) if train is not None else None
    if arguments.streaming and train is not None:
        size = arguments.shuffle_buffer_size or max(2, _SHUFFLED_TOKENS // block_size)
        train = train.shuffle(seed=seed, buffer_size=size)
    return LanguageModelData(train, first_rows(validation, arguments.max_eval_samples), block_size)


def choose_block_size(block_size: int | None, config: ReformerHFConfig) -> int:
    """Take the given number of tokens in a row, or what suits the model.

    Raises:
        ValueError: if it is longer than the model's longest input.
    """
    limit = config.position_limit
    if block_size is None:
        block_size = min(limit or _LONGEST_DEFAULT, _LONGEST_DEFAULT)
        logger.info(f"block_size: {block_size} tokens in a row")
    if limit is not None and block_size > limit:
        raise ValueError(
            f"block_size={block_size}: the model has {limit} positions; choose a smaller "
            "block_size, or a configuration with a larger axial_pos_shape"
        )
    return block_size


def _byte_rows(
    arguments: DataTrainingArguments, tokenizer: PreTrainedTokenizerBase, block_size: int
) -> dict[str, ByteRows]:
    if tokenizer("\n\u00e9", add_special_tokens=False)["input_ids"] != [12, 197, 171]:
        raise ValueError(
            f"data_format='bytes' needs ReformerHFByteTokenizer, the tokenizer is a "
            f"{type(tokenizer).__name__}: leave data_format out"
        )
    rows = {}
    for split, name in (("train", "train_file"), ("validation", "validation_file")):
        if (pattern := getattr(arguments, name)) is None:
            continue
        paths = find_files(name, pattern)
        if len(paths) > 1:
            raise ValueError(
                f"{name}={pattern}: {len(paths)} files, but data_format='bytes' reads one; join "
                "them, or leave data_format out"
            )
        rows[split] = ByteRows(paths[0], block_size)
    return rows

"""Pairs of a source and a target, from files or the Hub, and their tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from reformer_hf.training.arguments import argument
from reformer_hf.training.data.sources import SPLITS, RowArguments, load, take_first


@dataclass
class TranslationArguments(RowArguments):
    """Where pairs come from, with the names of transformers' `run_translation.py`.

    Files are .jsonl or .json, with a `translation` object or the languages in each line, or .tsv
    of two columns, source and target.
    """

    source_lang: str | None = argument(None, "Language of the source, as the data names it.")
    target_lang: str | None = argument(None, "Language of the target, as the data names it.")
    max_source_length: int = argument(128, "Tokens of a source; more are cut off.")
    max_target_length: int = argument(128, "Tokens of a target in training; more are cut off.")
    val_max_target_length: int | None = argument(
        None, "Tokens of a generated target; max_target_length by default."
    )
    num_beams: int | None = argument(None, "Beams of generation; 1 by default.")
    length_penalty: float = argument(1.0, "Exponent of the length that divides a beam's score.")
    source_prefix: str = argument("", "Put before each source.")

    def __post_init__(self):
        super().__post_init__()
        if not self.source_lang or not self.target_lang or self.source_lang == self.target_lang:
            raise ValueError(
                f"source_lang={self.source_lang!r} and target_lang={self.target_lang!r}: name two "
                "different languages"
            )
        files = [file for split in SPLITS if (file := getattr(self, f"{split}_file"))]
        if (self.dataset_name is None) == (not files):
            raise ValueError(
                f"dataset_name={self.dataset_name!r} and train_file={self.train_file!r}: give a "
                "dataset, or train_file, validation_file, test_file"
            )
        for file in files:
            if Path(file).suffix not in (".json", ".jsonl", ".tsv"):
                raise ValueError(f"{file}: must be a .jsonl, .json or .tsv file")
        if self.val_max_target_length is None:
            self.val_max_target_length = self.max_target_length
        for name in ("max_source_length", "max_target_length", "val_max_target_length"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 2")

    @property
    def longest(self) -> int:
        """Tokens of the longest source or target."""
        limits = (self.max_source_length, self.max_target_length, self.val_max_target_length or 0)
        return max(limits)


def load_pairs(
    arguments: TranslationArguments, cache_dir: str | None = None, token: str | None = None
) -> dict[str, datasets.Dataset]:
    """Load what the arguments name, as datasets with the columns `source` and `target`.

    Args:
        arguments: which data, in which languages.
        cache_dir: where `datasets` keeps it; its default if None.
        token: for private datasets of the Hub.

    Returns:
        The splits that there are, of `train`, `validation` and `test`.

    Raises:
        OSError: if data cannot be found or read.
        ValueError: if a language is not in the data.
    """
    if arguments.dataset_name is not None:
        options: dict[str, Any] = {"name": arguments.dataset_config_name, "token": token}
        splits = load(arguments.dataset_name, "pairs", cache_dir=cache_dir, **options)
    else:
        splits = {}
        for split, path in arguments.find_files().items():
            is_tsv = path.suffix == ".tsv"
            options = _tsv_options(path, arguments) if is_tsv else {}
            options |= {"data_files": str(path), "cache_dir": cache_dir}
            splits[split] = load("csv" if is_tsv else "json", "pairs", path, **options)["train"]
    first = take_first(splits, arguments)
    return {split: _as_pairs(rows, arguments, split) for split, rows in first.items()}


def _tsv_options(path: Path, arguments: TranslationArguments) -> dict[str, Any]:
    """How to read a file of two columns, with the languages in its first line or without."""
    columns = [arguments.source_lang, arguments.target_lang]
    with path.open(encoding="utf-8") as file:
        first = file.readline().rstrip("\r\n").split("\t")
    has_header = set(columns) <= set(first)
    if not has_header and len(first) != 2:
        raise ValueError(
            f"{path}: its first line has {len(first)} columns; give two, source and target, or "
            f"name the columns {columns} in the first line"
        )
    return {
        "delimiter": "\t",
        "quoting": 3,  # quotation marks are text
        "keep_default_na": False,  # so is "null"
        "features": datasets.Features(
            {column: datasets.Value("string") for column in (first if has_header else columns)}
        ),
        **({} if has_header else {"column_names": columns}),
    }


def _as_pairs(rows: Any, arguments: TranslationArguments, split: str) -> datasets.Dataset:
    """Find both languages in the columns, or in a column `translation`."""
    nested = "translation" in rows.column_names
    there = rows.features["translation"] if nested else rows.features
    languages = list(getattr(there, "languages", None) or there)
    for name in ("source_lang", "target_lang"):
        if getattr(arguments, name) not in languages:
            raise ValueError(
                f"{name}={getattr(arguments, name)!r}: the {split} data has {languages}"
            )

    def pair(row: dict) -> dict[str, str]:
        texts = row["translation"] if nested else row
        return {
            "source": arguments.source_prefix + texts[arguments.source_lang],
            "target": texts[arguments.target_lang],
        }

    return rows.map(pair, remove_columns=rows.column_names, desc=f"{split} pairs")


def tokenize_pairs(
    pairs: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TranslationArguments,
    held_out: bool = False,
) -> datasets.Dataset:
    """Encode sources as `input_ids` and targets as `labels`, each with the end of sequence.

    Targets are cut at `max_target_length`, held-out ones at `val_max_target_length`, which is what
    generation may reach.
    """
    longest: Any = arguments.val_max_target_length if held_out else arguments.max_target_length
    columns = {
        "input_ids": ("source", arguments.max_source_length),
        "labels": ("target", longest),
    }

    def encode(batch: dict) -> dict[str, list]:
        encoded = {}
        for name, (column, limit) in columns.items():
            ids = tokenizer(batch[column], add_special_tokens=False).input_ids
            encoded[name] = [row[: limit - 1] + [tokenizer.eos_token_id] for row in ids]
        return encoded

    return pairs.map(encode, batched=True, remove_columns=pairs.column_names, desc="tokens")

"""Pairs of a source and a target, from files or the Hub, and their tokens."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from reformer_hf.training.argument_checks import check_source, require_positive
from reformer_hf.training.arguments import argument
from reformer_hf.training.data.files import open_rows
from reformer_hf.training.data.reading import read_fields, text_of
from reformer_hf.training.data.sources import RowArguments, load, tables_of_folder, take_first

logger = logging.get_logger(__name__)

_SIDES = {"source": "input_ids", "target": "labels"}

# What stands in a header rather than in a pair.
_NAME = re.compile(r"[a-z]{2}([-_]\w+)?|(?i:source|target|src|tgt|input|output)(_\w+)?")


@dataclass
class TranslationArguments(RowArguments):
    """Where pairs come from, with the names of transformers' `run_translation.py`.

    Files are .jsonl, .json or .parquet, with a column `translation` that holds the languages or
    with a column for each, or .tsv or .csv. Of these the first line names the languages, or else
    there are two columns, source and target.
    """

    source_lang: str | None = argument(None, "Language of the source, as the data names it.")
    target_lang: str | None = argument(None, "Language of the target, as the data names it.")
    max_source_length: int = argument(128, "Tokens of a source; more are cut off.")
    max_target_length: int = argument(128, "Tokens of a target in training; more are cut off.")
    val_max_target_length: int | None = argument(
        None, "Tokens of a generated target; max_target_length by default."
    )
    num_beams: int | None = argument(None, "Beams of generation; 1 by default.")
    length_penalty: float | None = argument(
        None, "Exponent of the length that divides a beam's score; the model's, or 1, by default."
    )
    source_prefix: str = argument("", "Put before each source.")

    def __post_init__(self):
        super().__post_init__()
        if not self.source_lang or not self.target_lang or self.source_lang == self.target_lang:
            raise ValueError(
                f"source_lang={self.source_lang!r} and target_lang={self.target_lang!r}: name two "
                "different languages"
            )
        check_source(self)
        if self.val_max_target_length is None:
            self.val_max_target_length = self.max_target_length
        require_positive(self, "num_beams")
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
        ValueError: if a language is not in the data, or a pair is not two texts.
    """
    name, config_name = arguments.dataset_name, arguments.dataset_config_name
    files = tables_of_folder(name, config_name, "pairs")
    files |= {split: [path] for split, path in arguments.find_files().items()}
    if name is not None and not files:
        options: dict[str, Any] = {"name": config_name, "token": token}
        splits = load(name, "pairs", cache_dir=cache_dir, **options)
    else:
        splits = {
            split: open_rows(
                {split: paths},
                cache_dir=cache_dir,
                columns=_missing_header(paths[0], arguments),
                choose=partial(_choose_columns, arguments=arguments, split=split),
            )[split]
            for split, paths in files.items()
        }
    first = take_first(splits, arguments)
    return {split: _as_pairs(rows, arguments, split) for split, rows in first.items()}


def _missing_header(path: Path, arguments: TranslationArguments) -> list[str] | None:
    """Names of the columns of a table whose first line does not name them; else None."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        return None
    columns = [str(arguments.source_lang), str(arguments.target_lang)]
    _, first = next(read_fields(path), ("", columns))
    if set(columns) & set(first):
        return None  # where one is missing, the header is shown
    names, wanted = ([name.strip() for name in each] for each in (first, columns))
    if all(map(_NAME.fullmatch, names)) or {*map(str.casefold, names)} & {
        *map(str.casefold, wanted)
    }:
        raise ValueError(
            f"{path}: the first line {first} looks like names of columns, but not those of "
            f"source_lang and target_lang, {columns}: give its names, or write a first line with "
            "yours"
        )
    if len(first) != 2:
        raise ValueError(
            f"{path}: its first line has {len(first)} columns; give two, source and target, or "
            f"name the columns {columns} in the first line"
        )
    logger.warning(f"{path}: no line names the languages; {first} is the first pair")
    return columns


def _choose_columns(
    there: Sequence[str], arguments: TranslationArguments, split: str
) -> Sequence[str]:
    """The columns of both languages, or else the column `translation`."""
    wanted = [str(arguments.source_lang), str(arguments.target_lang)]
    if not set(wanted) <= set(there) and "translation" in there:
        return ["translation"]
    _check_languages(there, arguments, split)
    return wanted


def _check_languages(there: Iterable[str], arguments: TranslationArguments, split: str) -> None:
    for name in ("source_lang", "target_lang"):
        if getattr(arguments, name) not in there:
            raise ValueError(
                f"{name}={getattr(arguments, name)!r}: the {split} data has {list(there)} in "
                f"{_source(arguments, split)}; give one of these names, as it is written there"
            )


def _source(arguments: TranslationArguments, split: str) -> str:
    return getattr(arguments, f"{split}_file") or str(arguments.dataset_name)


def _as_pairs(rows: Any, arguments: TranslationArguments, split: str) -> datasets.Dataset:
    """Find both languages in the columns, or in a column `translation`."""
    nested = _choose_columns(rows.column_names, arguments, split) == ["translation"]
    if nested:
        there = rows.features["translation"]
        languages = getattr(there, "languages", there if isinstance(there, dict) else ())
        _check_languages(languages, arguments, split)

    source = _source(arguments, split)

    def pair(row: dict, number: int) -> dict[str, str]:
        texts = (row["translation"] if nested else row) or {}
        place = f"{source}: row {number + 1:,} of {split}"
        sides = (
            text_of(texts.get(language), f"{place}: {language!r}")
            for language in (arguments.source_lang, arguments.target_lang)
        )
        return {"source": arguments.source_prefix + next(sides), "target": next(sides)}

    return rows.map(
        pair,
        with_indices=True,
        remove_columns=rows.column_names,
        features=datasets.Features({name: datasets.Value("string") for name in _SIDES}),
        desc=f"{split} pairs",
    )


def tokenize_pairs(
    pairs: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TranslationArguments,
    split: str = "train",
) -> datasets.Dataset:
    """Encode sources as `input_ids` and targets as `labels`, each with the end of sequence.

    Targets are cut at `max_target_length`, but those that are not for training at
    `val_max_target_length`, which is what generation may reach. A warning says how many texts are
    cut, and how many are empty: these stay.
    """
    target = "max_target_length" if split == "train" else "val_max_target_length"
    limits = {"source": "max_source_length", "target": target}

    def encode(batch: dict) -> dict[str, list]:
        encoded: dict[str, list] = {}
        for side, name in limits.items():
            longest = getattr(arguments, name) - 1
            ids = tokenizer(batch[side], add_special_tokens=False, verbose=False).input_ids
            encoded[_SIDES[side]] = [row[:longest] + [tokenizer.eos_token_id] for row in ids]
            encoded[f"{side} cut"] = [len(row) > longest for row in ids]
            encoded[f"{side} empty"] = [not row for row in ids]
        return encoded

    tokens = pairs.map(encode, batched=True, remove_columns=pairs.column_names, desc="tokens")
    counted = [name for name in tokens.column_names if name not in _SIDES.values()]
    for name in counted:
        count, (side, what) = sum(tokens[name][:]), name.split()
        why = f" at {limits[side]}={getattr(arguments, limits[side])}" if what == "cut" else ""
        if count:
            logger.warning(f"{split}: {count:,} of {len(tokens):,} {side}s are {what}{why}")
    return tokens.remove_columns(counted)

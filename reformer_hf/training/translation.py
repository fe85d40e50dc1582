"""Translation data: pairs from files or the Hub, a vocabulary for them, tokens, sacreBLEU."""

import errno
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from reformer_hf.models.tokenization_reformer_hf import (
    EOS_TOKEN,
    PAD_TOKEN,
    UNK_TOKEN,
    ReformerHFByteTokenizer,
    ReformerHFTokenizer,
)
from reformer_hf.training.translation_arguments import (
    BYTES,
    Seq2SeqModelArguments,
    TranslationArguments,
)

SPLITS = ("train", "validation", "test")


def load_pairs(arguments: TranslationArguments) -> dict[str, datasets.Dataset]:
    """Load what the arguments name, as datasets with the columns `source` and `target`.

    Args:
        arguments: which data, in which languages.

    Returns:
        The splits that there are, of `train`, `validation` and `test`.

    Raises:
        OSError: if data cannot be found or read.
        ValueError: if a language is not in the data.
    """
    limits = {
        "train": arguments.max_train_samples,
        "validation": arguments.max_eval_samples,
        "test": arguments.max_predict_samples,
    }
    splits = {}
    for split, rows in _load_rows(arguments).items():
        pairs = _as_pairs(rows, arguments, split)
        limit = limits[split]
        splits[split] = pairs if limit is None else pairs.select(range(min(limit, len(pairs))))
    return splits


def _load_rows(arguments: TranslationArguments) -> dict[str, Any]:
    if arguments.dataset_name is not None:
        name = arguments.dataset_name
        found = _load(name, name, name=arguments.dataset_config_name)
        return {split: found[split] for split in SPLITS if split in found}
    files = (arguments.train_file, arguments.validation_file, arguments.test_file)
    rows = {}
    for split, file in zip(SPLITS, files, strict=True):
        if file is None:
            continue
        path = Path(file).expanduser()
        if not path.is_file():
            raise OSError(errno.ENOENT, "no such file", str(path))
        kind, options = "json", {}
        if path.suffix == ".tsv":
            kind, options = "csv", _tsv_options(path, arguments)
        rows[split] = _load(file, kind, data_files=str(path), **options)["train"]
    return rows


def _load(what: str, path: str, **options: Any) -> Any:
    try:
        return datasets.load_dataset(path, **options)
    except Exception as error:  # offline, unknown, malformed: datasets has a class for each
        cause = error.__cause__ or error
        reason = f"cannot be loaded ({type(cause).__name__}: {cause}); check name and content"
        raise OSError(errno.EIO, reason, what) from error


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


def train_sentencepiece(texts: Iterator[str], vocab_size: int, path: Path) -> ReformerHFTokenizer:
    """Train a Unigram vocabulary with pad 0, unknown 1 and end of sequence 2.

    A character that the vocabulary lacks becomes its bytes, so nothing is lost.

    Args:
        texts: both languages.
        vocab_size: pieces; a small corpus may give fewer.
        path: for the model, a `spiece.model` file.

    Raises:
        ImportError: without the extra `sentencepiece`.
        ValueError: if `vocab_size` leaves no room for pieces.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "training a vocabulary needs sentencepiece: pip install 'reformer_hf[sentencepiece]', "
            f"or --tokenizer_name {BYTES}"
        ) from error
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=texts,
            model_writer=model,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            pad_id=0,
            unk_id=1,
            eos_id=2,
            bos_id=-1,
            pad_piece=PAD_TOKEN,
            unk_piece=UNK_TOKEN,
            eos_piece=EOS_TOKEN,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"vocab_size={vocab_size}: {error}") from error
    path.write_bytes(model.getvalue())
    return ReformerHFTokenizer(vocab_file=path)


def open_tokenizer(
    arguments: Seq2SeqModelArguments, train: datasets.Dataset | None, folder: Path
) -> PreTrainedTokenizerBase:
    """Load the tokenizer that is named, or train one on the data, once.

    Args:
        arguments: which.
        train: pairs of `load_pairs`.
        folder: for a trained vocabulary.
    """
    name = arguments.tokenizer_name or arguments.model_name_or_path
    path = folder / "spiece.model"
    if name == BYTES:
        tokenizer: Any = ReformerHFByteTokenizer()
    elif name is not None:
        tokenizer = AutoTokenizer.from_pretrained(name)
    elif path.exists():
        tokenizer = ReformerHFTokenizer(vocab_file=path)
    elif train is None:
        raise ValueError("tokenizer_name=None: without training data, name a tokenizer or a model")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        texts = (text for pair in train for text in (pair["source"], pair["target"]))  # type: ignore[index]
        tokenizer = train_sentencepiece(texts, arguments.vocab_size, path)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer_name={name!r}: has no eos_token, which ends a target")
    tokenizer.padding_side = "right"  # so that the start token begins each target
    return tokenizer


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
    longest = arguments.val_max_target_length if held_out else None
    limits = {
        "input_ids": arguments.max_source_length,
        "labels": longest or arguments.max_target_length,
    }
    columns = {"input_ids": "source", "labels": "target"}

    def encode(batch: dict) -> dict[str, list]:
        encoded = {}
        for name, column in columns.items():
            ids = tokenizer(batch[column], add_special_tokens=False).input_ids
            encoded[name] = [row[: limits[name] - 1] + [tokenizer.eos_token_id] for row in ids]
        return encoded

    return pairs.map(encode, batched=True, remove_columns=pairs.column_names, desc="tokens")


def bleu_metrics(tokenizer: PreTrainedTokenizerBase) -> Callable[[Any], dict[str, Any]]:
    """A `compute_metrics` of Trainer: sacreBLEU of generated ids against labels.

    Raises:
        ImportError: without the extra `translate`.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ImportError(
            "predict_with_generate needs sacreBLEU: pip install 'reformer_hf[translate]'"
        ) from error

    def compute(evaluated: Any) -> dict[str, Any]:
        predictions, labels = (decode(tokenizer, ids) for ids in (evaluated[0], evaluated[1]))
        metric = BLEU()
        score = metric.corpus_score(predictions, [labels])
        return {"bleu": score.score, "bleu_signature": str(metric.get_signature())}

    return compute


def decode(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> list[str]:
    """Texts of rows of token ids, in which -100 is padding."""
    ids = np.where(ids == -100, tokenizer.pad_token_id, ids)  # type: ignore[arg-type]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [" ".join(text.split()) for text in texts]

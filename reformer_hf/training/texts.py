"""Text from the Hub or from files, through `datasets`: on the disk or as a stream, never whole."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Value,
    load_dataset,
)

from reformer_hf.training.data_arguments import DataTrainingArguments

Texts = DatasetDict | IterableDatasetDict
ENDS_DOCUMENT = "ends_document"

_PIECE = 1 << 14  # characters; tokenizers take a hundred bytes for each
_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
_PIECES = Features({"text": Value("string"), ENDS_DOCUMENT: Value("bool")})


def load_texts(
    arguments: DataTrainingArguments, cache_dir: str | None = None, token: str | None = None
) -> Texts:
    """Open the splits `train` and `validation`, as far as they are there.

    A text file is cut into pieces, so that its size does not matter; the column `ends_document`
    says which of them is the last. Rows of other sources are whole documents.

    Args:
        arguments: which data.
        cache_dir: where `datasets` keeps it; its default if None.
        token: for private datasets of the Hub.

    Raises:
        OSError: if there is no such dataset, or no file of that name.
        ValueError: if a file has another kind than the first, or is not text.
    """
    if arguments.dataset_name is not None:
        texts = _load(
            arguments.dataset_name,
            name=arguments.dataset_config_name,
            streaming=arguments.streaming,
            cache_dir=cache_dir,
            token=token,
        )
        return texts.__class__({k: v for k, v in texts.items() if k in ("train", "validation")})
    files = {
        split: find_files(name, pattern)
        for split, name in (("train", "train_file"), ("validation", "validation_file"))
        if (pattern := getattr(arguments, name)) is not None
    }
    builders = {_BUILDERS.get(path.suffix.lower()) for paths in files.values() for path in paths}
    if len(builders) > 1:
        names = sorted(path.name for paths in files.values() for path in paths)
        raise ValueError(
            f"train_file, validation_file: {names[:4]} are of different kinds; give files of one "
            "kind (text, JSON, CSV or Parquet)"
        )
    (builder,) = builders
    if builder is not None:
        paths = {split: [str(path) for path in paths] for split, paths in files.items()}
        return _load(builder, data_files=paths, streaming=arguments.streaming, cache_dir=cache_dir)
    texts: Any = {split: _text_files(paths, arguments, cache_dir) for split, paths in files.items()}
    return (IterableDatasetDict if arguments.streaming else DatasetDict)(texts)


def find_files(name: str, pattern: str) -> list[Path]:
    """Find the files that a path or a pattern names, in order.

    Raises:
        OSError: if there are none.
    """
    paths = sorted(Path(path) for path in glob.glob(str(Path(pattern).expanduser())))
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise FileNotFoundError(f"{name}={pattern}: there is no such file; check the path")
    return paths


def _load(*args: Any, **kwargs: Any) -> Any:
    try:
        return load_dataset(*args, **kwargs)
    except Exception as error:  # datasets has a class for each way to fail
        raise OSError(
            f"the dataset {args[0]!r} could not be loaded ({type(error).__name__}: {error}). "
            "Check the name, the files and the connection"
        ) from error


def _text_files(
    paths: list[Path], arguments: DataTrainingArguments, cache_dir: str | None
) -> Dataset | IterableDataset:
    # Size and date, so that a file that was changed is read again and not found in the cache.
    files = [(str(path), (s := path.stat()).st_size, s.st_mtime_ns) for path in paths]
    options: dict[str, Any] = {
        "features": _PIECES,
        "gen_kwargs": {"files": files, "keep_linebreaks": arguments.keep_linebreaks},
    }
    if arguments.streaming:
        return IterableDataset.from_generator(_read_pieces, **options)
    return Dataset.from_generator(_read_pieces, **options, cache_dir=cache_dir)  # type: ignore[arg-type]


def _read_pieces(
    files: list[tuple[str, int, int]], keep_linebreaks: bool
) -> Iterator[dict[str, Any]]:
    """Read text files in pieces that end with a line, where lines are not longer than a piece."""
    for path, _, _ in files:
        with open(path, encoding="utf-8", newline="") as file:
            try:
                piece = _next_piece(file)
                while piece:
                    following = _next_piece(file)
                    text = piece if keep_linebreaks else "".join(piece.splitlines())
                    yield {"text": text, ENDS_DOCUMENT: not following}
                    piece = following
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}: not UTF-8 text ({error}); convert it, or read it with "
                    "data_format='bytes'"
                ) from error


def _next_piece(file) -> str:
    piece = file.read(_PIECE)
    return piece + file.readline(_PIECE) if piece else piece

"""Files of rows as datasets, with the values that stand in them; their types are not guessed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict
from datasets.exceptions import DatasetGenerationError

from reformer_hf.training.data.reading import read_rows
from reformer_hf.training.data.sources import load

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
"""Endings of files that hold rows, in any case."""

Choose = Callable[[list[str]], Sequence[str]]

_BATCH = 100  # rows, which may be long, whose types are found at a time
_WRITTEN = 1 << 24  # bytes of rows, about, that are held before they are written


def open_rows(
    files: Mapping[str, Sequence[Path]],
    *,
    streaming: bool = False,
    cache_dir: str | None = None,
    columns: Sequence[str] | None = None,
    choose: Choose | None = None,
) -> DatasetDict | IterableDatasetDict:
    """Open files of rows as datasets, with the values of :func:`read_rows`.

    A column that some rows lack is None there. A stream reads a file when it comes to it, so that
    what is wrong shows up there; else all files are read at once.

    Args:
        files: by split, of one or several of `TABLES`.
        streaming: whether to read rows as they are asked for.
        cache_dir: where `datasets` keeps rows; its default if None.
        columns: names for tables without a header line.
        choose: picks the columns that are needed from all that there are. Others are left out, and
            may hold anything.

    Raises:
        OSError: if a file cannot be opened, or Parquet cannot be read.
        ValueError: as for :func:`read_rows`, or if a column holds values of several kinds.
    """
    opened: Any = {}
    for split, paths in files.items():
        kinds = {path.suffix.lower() for path in paths}
        if kinds == {".parquet"}:
            rows = load(
                "parquet",
                source=[str(path) for path in paths][:4],
                data_files={split: [str(path) for path in paths]},
                description=str(file_versions(paths)),  # part of what the cache is found by
                split=split,
                streaming=streaming,
                cache_dir=cache_dir,
            )
            opened[split] = rows.select_columns(choose(rows.column_names)) if choose else rows
        elif ".parquet" in kinds:
            raise ValueError(f"{split} files end with {sorted(kinds)}: give files of one kind")
        else:
            opened[split] = _open_tables(paths, streaming, cache_dir, columns, choose)
    return (IterableDatasetDict if streaming else DatasetDict)(opened)


def _open_tables(
    paths: Sequence[Path],
    streaming: bool,
    cache_dir: str | None,
    columns: Sequence[str] | None,
    choose: Choose | None,
) -> Dataset | IterableDataset:
    columns = None if columns is None else tuple(columns)  # a list would be taken for shards
    sources: dict[str, Any] = {"files": file_versions(paths), "columns": columns}
    if streaming:
        return IterableDataset.from_generator(_rows, gen_kwargs=sources | {"names": None})
    types, count = _find_types(paths, columns, choose)
    size = sum(path.stat().st_size for path in paths)
    with readable_causes():
        return Dataset.from_generator(
            _rows,
            Features.from_arrow_schema(pa.schema(types.items())),
            gen_kwargs=sources | {"names": tuple(types)},
            cache_dir=cache_dir,  # type: ignore[arg-type]
            writer_batch_size=max(1, min(1000, _WRITTEN * count // max(1, size))),
        )  # type: ignore[return-value]


def file_versions(paths: Sequence[Path]) -> list[tuple[str, int, int, int]]:
    """Name, size and dates, so that a changed file is read again and not found in the cache."""
    stats = [(str(path.absolute()), path.stat()) for path in paths]
    # The date of the last change of any kind, too: a copy may keep the other one.
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]


@contextmanager
def readable_causes() -> Iterator[None]:
    """Raise what a generator raised inside `datasets` as it was."""
    try:
        yield
    except DatasetGenerationError as error:
        raise (error.__cause__ or error) from None


def _rows(
    files: list[tuple[str, int, int, int]],
    columns: tuple[str, ...] | None,
    names: tuple[str, ...] | None,
) -> Iterator[dict[str, Any]]:
    for path, *_ in files:
        for row in read_rows(Path(path), columns):
            yield row if names is None else {name: row.get(name) for name in names}


def _find_types(
    paths: Sequence[Path], columns: Sequence[str] | None, choose: Choose | None
) -> tuple[dict[str, pa.DataType], int]:
    """The type of each column that is needed, from all rows, and the number of rows."""
    types: dict[str, pa.DataType] = {}
    mixed: dict[str, str] = {}
    count = 0
    for path in paths:
        number, rows = 1, read_rows(path, columns)
        while batch := list(islice(rows, _BATCH)):
            for name in {name: None for row in batch for name in row}:
                values = [row.get(name) for row in batch]
                known = types.get(name, pa.null())
                try:
                    types[name] = _merge(known, values)
                except (pa.ArrowException, OverflowError):
                    types.setdefault(name, known)
                    mixed.setdefault(name, f"{path}: row {number + _first_misfit(known, values):,}")
            number += len(batch)
        count += number - 1
    names = list(types if choose is None else choose(list(types)))
    for name in names:
        if name in mixed:
            raise ValueError(
                f"{mixed[name]}: the value of column {name!r} is of another kind than those before "
                "it, or a number beyond 64 bits; give the column values of one kind"
            )
        if "\0" in name:
            raise ValueError(f"{paths[0]}: column {name!r} has a NUL in its name; rename it")
    return {name: types[name] for name in names}, count


def _merge(known: pa.DataType, values: list[Any]) -> pa.DataType:
    """The type of values that a column of a type has, too: whole numbers may become fractions."""
    schemas = [pa.schema([("", kind)]) for kind in (known, pa.array(values).type)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type


def _first_misfit(known: pa.DataType, values: list[Any]) -> int:
    for place, value in enumerate(values):
        try:
            known = _merge(known, [value])
            pa.array([value], known)
        except (pa.ArrowException, OverflowError):
            return place
    return 0

"""Measure how well a causal model predicts text: bits per byte, bits per token, perplexity.

Documents of any length are read in windows that overlap, so that each token is predicted once, from
at least `context_length - stride` tokens before it:

    python scripts/evaluate_perplexity.py --model_name_or_path outputs/mine --eval_file text.txt
    python scripts/evaluate_perplexity.py --model_name_or_path outputs/mine --dataset_name wikitext
        --dataset_config_name wikitext-103-raw-v1 --split test --context_length 4096 --stride 512

Beside the model's bits per byte stand those of counts of bytes and of compressors on the same text.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import reformer_hf  # noqa: F401 (registers the classes)
from reformer_hf.training.argument_checks import check_choices
from reformer_hf.training.arguments import DataTrainingArguments, argument
from reformer_hf.training.baselines import Baselines
from reformer_hf.training.data.bytes import check_byte_tokenizer, read_bytes
from reformer_hf.training.data.documents import ENDS_DOCUMENT
from reformer_hf.training.data.files import open_rows
from reformer_hf.training.data.packing import choose_text_column, column_names, document_of
from reformer_hf.training.data.sources import load, tables_of_folder
from reformer_hf.training.data.text import find_files, load_texts
from reformer_hf.training.parsing import parse_arguments, readable_errors
from reformer_hf.training.perplexity import (
    Piece,
    check_windows,
    pieces_of_bytes,
    score_documents,
    tokenize_pieces,
)
from reformer_hf.training.record import machine_record
from reformer_hf.training.storage import write_json

LONGEST_DEFAULT = 8192


@dataclass
class PerplexityArguments:
    """Which model, which text, and in which windows."""

    model_name_or_path: str = argument(None, "Causal model, a folder or a name on the Hub.")
    tokenizer_name: str | None = argument(None, "Tokenizer, if it is not the model's.")
    dataset_name: str | None = argument(None, "Name of a dataset on the Hub, or a local one.")
    dataset_config_name: str | None = argument(None, "Configuration of that dataset.")
    split: str = argument("test", "Split of that dataset, such as 'test' or 'validation[:10%]'.")
    eval_file: str | None = argument(
        None,
        "Text (a file is one document), or rows: .json, .jsonl, .csv, .tsv, .parquet. A pattern "
        "names several.",
    )
    data_format: Literal["text", "bytes"] = argument(
        "text",
        "'bytes' reads eval_file byte by byte, whatever it is: for ReformerHFByteTokenizer.",
    )
    text_column_name: str = argument("text", "Column that holds the text.")
    context_length: int | None = argument(
        None, "Tokens that the model reads at a time. Default: its longest input, at most 8,192."
    )
    stride: int | None = argument(
        None, "Tokens from one window to the next. Default: half of context_length."
    )
    per_device_eval_batch_size: int = argument(1, "Windows at a time.")
    max_eval_samples: int | None = argument(None, "Read at most so many rows, or pieces of files.")
    dtype: str = argument("float32", "Type of the parameters.", choices=["float32", "bfloat16"])
    device: str | None = argument(None, "Such as 'cpu' or 'cuda'. Default: a GPU if there is one.")
    output_file: str | None = argument(None, "JSON file for the result, the settings and machine.")
    cache_dir: str | None = argument(None, "Where models and data from the Hub are kept.")
    token: str | None = argument(None, "Token for private repositories of the Hub.")

    def __post_init__(self):
        if self.model_name_or_path is None:
            raise ValueError("model_name_or_path is missing: name a causal model")
        if (self.dataset_name is None) == (self.eval_file is None):
            raise ValueError("give either dataset_name or eval_file")
        check_choices(self)
        if self.data_format == "bytes" and self.eval_file is None:
            raise ValueError("data_format='bytes' reads files: give eval_file, not dataset_name")
        for name in ("per_device_eval_batch_size", "max_eval_samples", "context_length", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")


def read_texts(arguments: PerplexityArguments) -> Iterator[tuple[str, bool]]:
    """Pieces of documents, and whether each is the last of its document.

    Raises:
        OSError: if there is no such dataset or file.
        ValueError: if there is no column of that name.
    """
    rows: Any
    name = arguments.dataset_name
    if arguments.eval_file is not None:
        rows = load_texts(
            DataTrainingArguments(
                validation_file=arguments.eval_file,
                text_column_name=arguments.text_column_name,
                streaming=True,
            )
        )["validation"]
    elif arguments.split in (tables := tables_of_folder(name, arguments.dataset_config_name)):
        rows = open_rows({arguments.split: tables[arguments.split]}, streaming=True)
        rows = rows[arguments.split]
    else:
        rows = load(
            str(name),
            f"split {arguments.split!r}",
            name=arguments.dataset_config_name,
            split=arguments.split,
            cache_dir=arguments.cache_dir,
            token=arguments.token,
        )
    column = choose_text_column(column_names(rows), arguments.text_column_name)
    for number, row in enumerate(islice(rows, arguments.max_eval_samples), 1):
        yield document_of(row.get(column), column, number), row.get(ENDS_DOCUMENT, True)


def read_pieces(
    arguments: PerplexityArguments, tokenizer: Any, baselines: Baselines
) -> Iterator[Piece]:
    """Tokenise what is read, and hand its bytes to what the model is compared with."""

    def counted(contents: Iterable[tuple[Any, bool]]) -> Iterator[tuple[Any, bool]]:
        for content, ends in contents:
            baselines.update(content.encode() if isinstance(content, str) else content)
            yield content, ends

    if arguments.data_format == "text":
        return tokenize_pieces(counted(read_texts(arguments)), tokenizer)
    check_byte_tokenizer(tokenizer)
    contents = read_bytes(find_files("eval_file", str(arguments.eval_file)))
    return pieces_of_bytes(counted(islice(contents, arguments.max_eval_samples)))


def evaluate(arguments: PerplexityArguments) -> dict[str, Any]:
    """Score the text, and return what was found."""
    options = {"cache_dir": arguments.cache_dir, "token": arguments.token}
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = AutoModelForCausalLM.from_pretrained(
        arguments.model_name_or_path, dtype=arguments.dtype, **options
    )
    model.to(device)
    tokenizer = AutoTokenizer.from_pretrained(
        arguments.tokenizer_name or arguments.model_name_or_path, **options
    )
    limit = getattr(model.config, "position_limit", None)
    context = arguments.context_length or min(limit or LONGEST_DEFAULT, LONGEST_DEFAULT)
    stride = context // 2 if arguments.stride is None else arguments.stride
    check_windows(context, stride, limit)
    if getattr(model.config, "attention_scope", None) == "chunk":
        print(
            "Note: in the 'chunk' scope of this model earlier predictions depend on later tokens, "
            "so these are not the bits of a code; the 'band' scope has none of that.",
            file=sys.stderr,
        )
    baselines = Baselines()
    pieces = read_pieces(arguments, tokenizer, baselines)
    score = score_documents(model, pieces, context, stride, arguments.per_device_eval_batch_size)
    return asdict(score) | {"baselines_bits_per_byte": baselines.bits_per_byte()}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write the record if one is asked for."""
    with readable_errors() as status:
        (parsed,) = parse_arguments((PerplexityArguments,), arguments, __doc__)
        result = evaluate(parsed)
        print(json.dumps(result, indent=2))
        if parsed.output_file is not None:
            settings = {name: value for name, value in asdict(parsed).items() if name != "token"}
            record = {"result": result, "settings": settings, "machine": machine_record()}
            Path(parsed.output_file).parent.mkdir(parents=True, exist_ok=True)
            write_json(Path(parsed.output_file), record)
    return status.code


if __name__ == "__main__":
    sys.exit(main())

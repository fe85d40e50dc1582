import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer, ReformerHFTokenizer
from reformer_hf.training.arguments import DataTrainingArguments
from reformer_hf.training.data.bytes import ByteRows
from reformer_hf.training.data.text import (
    choose_block_size,
    data_settings,
    load_language_model_data,
)
from tests.models.tiny import tiny_config

ROOT = Path(__file__).parents[3]
TOKENIZER = ReformerHFByteTokenizer()
TEXT = "".join(f"line {index}: é\n" for index in range(200))


@pytest.fixture
def load(tmp_path):
    """Returns a function that loads data with a tiny model's configuration."""

    def load(tokenizer=TOKENIZER, **fields):
        config = tiny_config(vocab_size=258, attention_scope=fields.pop("scope", "band"))
        arguments = DataTrainingArguments(**fields)
        return load_language_model_data(arguments, tokenizer, config, str(tmp_path / "cache"))

    return load


@pytest.fixture
def text_file(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return str(tmp_path / "text.txt")


def content(rows):
    return b"".join(ReformerHFByteTokenizer.decode_bytes(row["input_ids"]) for row in rows)


def test_a_file_becomes_rows_of_the_models_length(load, text_file):
    data = load(train_file=text_file)
    assert data.block_size == 96
    lengths = [len(row["input_ids"]) for row in data.train]
    assert set(lengths[:-1]) == {96} and 0 < lengths[-1] <= 96
    assert content(data.validation) + content(data.train) == TEXT.encode()
    assert len(data.validation) == max(1, (len(data.validation) + len(data.train)) * 5 // 100)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": null}\n', "the data hold no text"),
        ('{"text": null}\n{"text": 0}\n', "row 2: column 'text' holds 0, no text"),
    ],
)
def test_rows_without_text_are_named(load, tmp_path, streaming, content, message):
    (tmp_path / "a.jsonl").write_text(content)
    path = str(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=message):
        list(load(train_file=path, validation_file=path, streaming=streaming).train)


def test_the_first_column_that_has_a_name_is_the_text(load, tmp_path, caplog):
    (tmp_path / "a.csv").write_text(",body,rest\n0,hello,x\n")
    with caplog.at_level("WARNING"):
        data = load(validation_file=str(tmp_path / "a.csv"))
    assert content(data.validation) == b"hello" and "from column 'body'" in caplog.text


def test_a_validation_file_is_used_and_nothing_held_out(load, text_file, tmp_path):
    (tmp_path / "other.txt").write_text("held out")
    data = load(train_file=text_file, validation_file=str(tmp_path / "other.txt"))
    assert content(data.train) == TEXT.encode() and content(data.validation) == b"held out"
    data = load(validation_file=text_file)
    assert data.train is None and content(data.validation) == TEXT.encode()


def test_samples_are_limited(load, text_file):
    data = load(train_file=text_file, max_train_samples=3, max_eval_samples=1, block_size=16)
    assert (len(data.train), len(data.validation)) == (3, 1)
    stream = load(train_file=text_file, max_train_samples=3, block_size=16, streaming=True)
    assert len(list(stream.train)) == 3


def test_a_stream_is_shuffled_by_seed_and_epoch(load, text_file):
    plain = load(train_file=text_file, block_size=16)
    stream = load(train_file=text_file, block_size=16, streaming=True).train
    first = [row["input_ids"] for row in stream]
    assert first == [row["input_ids"] for row in stream]
    stream.set_epoch(1)
    second = [row["input_ids"] for row in stream]
    assert first != second and sorted(first) == sorted(second)
    assert abs(len(first) - len(plain.train)) <= len(plain.validation)


def test_bytes_are_mapped_and_equal_the_tokenised_text(load, text_file):
    data = load(train_file=text_file, data_format="bytes")
    assert isinstance(data.train, ByteRows)
    rows = [data.train[index] for index in range(len(data.train))]
    rows += [data.validation[index] for index in range(len(data.validation))]
    assert content(rows) == TEXT.encode()
    words = ReformerHFTokenizer.train_from_iterator([TEXT], 40)
    with pytest.raises(ValueError, match="needs ReformerHFByteTokenizer, the tokenizer is"):
        load(words, train_file=text_file, data_format="bytes")


def test_what_does_not_fit_is_said(load, text_file, tmp_path):
    with pytest.raises(ValueError, match="block_size=97: the model has 96 positions"):
        load(train_file=text_file, block_size=97)
    with pytest.raises(ValueError, match="attention_scope='chunk'.*packing='blocks'"):
        load(train_file=text_file, scope="chunk")


def test_the_bytes_of_a_folder_are_rows_without_the_runs_own_output(text_file, tmp_path):
    (tmp_path / "other.txt").write_text("other")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("log")
    config = tiny_config(vocab_size=258)
    fields = {"train_file": str(tmp_path), "data_format": "bytes", "block_size": 16}
    arguments = DataTrainingArguments(**fields, validation_file=text_file, max_eval_samples=3)
    data = load_language_model_data(arguments, TOKENIZER, config, exclude=tmp_path / "run")
    rows = [data.train[index] for index in range(len(data.train))]
    assert content(rows) == b"other" + TEXT.encode()
    last = (len(TEXT.encode()) + 15) // 16 * 2 // 3 * 16
    assert content([data.validation[2]]) == TEXT.encode()[last : last + 16]


def test_what_decides_the_training_rows(text_file, tmp_path):
    def settings(**fields):
        return data_settings(
            DataTrainingArguments(train_file=text_file, **fields), tmp_path / "run"
        )

    first = settings(block_size=16)
    assert first == settings(block_size=16, max_eval_samples=3, overwrite_cache=True)
    assert first["train_file"].startswith(f"1 files, {len(TEXT.encode()):,} bytes, sha256 ")
    assert first != settings(block_size=16, packing="blocks")
    other = settings(block_size=16, validation_file=text_file)
    assert other["validation_split_percentage"] is None != first["validation_split_percentage"]
    (tmp_path / "text.txt").write_text(TEXT.replace("9", "8"), encoding="utf-8")
    assert settings(block_size=16)["train_file"] != first["train_file"]


def test_the_files_of_a_local_dataset_decide_too(tmp_path):
    rows, arguments = tmp_path / "train.jsonl", DataTrainingArguments(dataset_name=str(tmp_path))
    rows.write_text('{"text": "a"}\n')
    first = data_settings(arguments)
    assert first == data_settings(arguments)
    rows.write_text('{"text": "b"}\n')
    assert data_settings(arguments) != first


def test_without_positions_there_is_no_limit():
    config = tiny_config(position_embedding_type="none")
    assert choose_block_size(None, config) == 8192
    assert choose_block_size(1 << 19, config) == 1 << 19


MEMORY_WORKER = """
import resource, sys
from pathlib import Path
import datasets, pyarrow
from reformer_hf import ReformerHFByteTokenizer, ReformerHFConfig
from reformer_hf.training.data.collator import ReformerDataCollator
from reformer_hf.training.arguments import DataTrainingArguments
from reformer_hf.training.data.text import load_language_model_data
from reformer_hf.training.data.rows import FilledRows, ShuffledRows
from torch.utils.data import DataLoader

file, cache, data_format, streaming, megabytes = sys.argv[1:]
datasets.disable_progress_bars()
tokenizer = ReformerHFByteTokenizer()
tokenizer(["warm up"] * 4)
status = Path("/proc/self/status").read_text()
used = int(status.split("VmData:")[1].split()[0]) * 1024
limit = used + int(megabytes) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
arguments = DataTrainingArguments(
    train_file=file, data_format=data_format, streaming=streaming == "True", block_size=16384
)
config = ReformerHFConfig(vocab_size=258, axial_pos_shape=(128, 128))
train = load_language_model_data(arguments, tokenizer, config, cache).train
collate, order = ReformerDataCollator(tokenizer), None
if streaming == "False":
    train = FilledRows(train, 2)
    order = ShuffledRows(train, 0)
tokens = 0
for batch in DataLoader(train, 2, sampler=order, collate_fn=collate):
    tokens += int(batch["attention_mask"].sum())
print(tokens)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
@pytest.mark.parametrize(
    "file_format, streaming, megabytes, limit",
    [
        ("bytes", False, 120, 60),
        pytest.param("text", True, 170, 160, marks=pytest.mark.slow),
        pytest.param("text", False, 170, 160, marks=pytest.mark.slow),
        pytest.param("jsonl", False, 170, 160, marks=pytest.mark.slow),
    ],
)
def test_a_corpus_larger_than_memory(tmp_path, file_format, streaming, megabytes, limit):
    line, count = "x" * 1023 + "\n", megabytes * 1024
    path = tmp_path / f"corpus.{file_format}"
    with path.open("w") as file:
        for _ in range(count):
            file.write(json.dumps({"text": line}) + "\n" if file_format == "jsonl" else line)
    done = subprocess.run(
        [
            *(sys.executable, "-c", MEMORY_WORKER, path, tmp_path / "cache"),
            *("bytes" if file_format == "bytes" else "text", str(streaming), str(limit)),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 0.9 * megabytes < int(done.stdout) / 2**20 < megabytes + 1


@pytest.mark.parametrize("data_format", ["text", "bytes"])
def test_a_block_size_beyond_the_data_is_remarked_on(
    load, data_format, text_file, tmp_path, caplog
):
    logging.getLogger("transformers").propagate = True
    (tmp_path / "short.txt").write_text("short")
    files = {"train_file": text_file, "validation_file": str(tmp_path / "short.txt")}
    load(**files, data_format=data_format, block_size=48)
    (message,) = [each.message for each in caplog.records if "block_size=" in each.message]
    tokens = 5 + (data_format == "text")  # with an end of sequence
    assert f"block_size=48: all the evaluation data are one row of {tokens} tokens" in message
    caplog.clear()
    load(**files, data_format=data_format, block_size=tokens)
    assert "one row of" not in caplog.text
    (tmp_path / "short.txt").write_text("s")
    with pytest.raises(ValueError, match="the evaluation data are one token"):
        load(**files, data_format="bytes")


@pytest.mark.parametrize("name", ["max_train_samples", "max_eval_samples", "block_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_no_rows_at_all_cannot_be_asked_for(load, name, value, text_file):
    with pytest.raises(ValueError, match=f"{name}={value}: must be above 0"):
        load(train_file=text_file, **{name: value})

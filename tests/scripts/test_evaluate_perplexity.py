"""evaluate_perplexity.py on tiny models and texts."""

import gzip
import json
import math

import pytest
import torch

from reformer_hf import ReformerHFByteTokenizer
from scripts.evaluate_perplexity import main
from tests.models.tiny import SCOPES, tiny_lm
from tests.training.other_tokenizers import EXACT

TEXTS = ["naïve text, " * 20, "short", ""]


@pytest.fixture(params=SCOPES)
def model(request, tmp_path):
    model = tiny_lm(vocab_size=258, attention_scope=request.param)
    model.save_pretrained(tmp_path / "model")
    ReformerHFByteTokenizer().save_pretrained(tmp_path / "model")
    return model


def run(tmp_path, *options: str) -> dict:
    record = tmp_path / "out" / "record.json"
    arguments = ["--model_name_or_path", str(tmp_path / "model"), "--output_file", str(record)]
    assert main([*arguments, *options, "--token", "secret"]) == 0
    written = json.loads(record.read_text())
    assert "secret" not in record.read_text() and written["machine"]["date"]
    return written["result"]


def test_a_text_file_is_one_document(model, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("naïve text, " * 5000, encoding="utf-8")
    options = ["--eval_file", str(tmp_path / "text.txt"), "--per_device_eval_batch_size", "64"]
    result = run(tmp_path, *options, "--max_eval_samples", "1")
    assert json.loads(capsys.readouterr().out) == result
    assert result["documents"] == 1  # the beginning of it
    assert result["context_length"] == 96 and result["stride"] == 48
    assert result["windows"] > 300 and result["bits_per_byte"] == result["bits_per_token"] > 6


@pytest.mark.parametrize("ending", ["jsonl", "dataset"])
def test_rows_are_documents(model, ending, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    file = folder / "test.jsonl"
    file.write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    source = ["--eval_file", str(file)] if ending == "jsonl" else ["--dataset_name", str(folder)]
    source += ["--cache_dir", str(tmp_path / "cache")] if ending == "dataset" else []
    result = run(tmp_path, *source, "--text_column_name", "body", "--context_length", "32")
    sizes = [len(text.encode()) for text in TEXTS]
    assert result["documents"] == 3 and result["tokens_scored"] == sizes[0] + sizes[1] - 2
    assert result["bytes_scored"] == result["tokens_scored"]
    short = run(tmp_path, *source, "--text_column_name", "body", "--context_length", "96")
    assert short["windows"] < result["windows"]
    noted = "earlier predictions depend on later tokens" in capsys.readouterr().err
    assert noted == (model.config.attention_scope == "chunk")


def test_a_document_in_one_window(model, tmp_path):
    (tmp_path / "text.txt").write_text(TEXTS[1])
    result = run(tmp_path, "--eval_file", str(tmp_path / "text.txt"), "--stride", "1")
    ids = torch.tensor([ReformerHFByteTokenizer()(TEXTS[1]).input_ids])
    loss = model(ids, labels=ids).loss.item()
    assert result["bits_per_byte"] == pytest.approx(loss / math.log(2), rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)


def test_bytes_that_are_no_text_are_scored_and_compared(model, tmp_path):
    content = b"\xff\xfe na\xefve " * 7000  # longer than a piece
    (tmp_path / "text.bin").write_bytes(content)
    (tmp_path / "text.txt").write_bytes(b"ab")
    options = ["--eval_file", str(tmp_path / "text.*"), "--data_format", "bytes"]
    result = run(tmp_path, *options, "--stride", "95", "--per_device_eval_batch_size", "64")
    assert result["documents"] == 2
    assert result["bytes_scored"] == result["tokens_scored"] == len(content) - 1 + 1
    found = result["baselines_bits_per_byte"]
    assert found["uniform"] == 8 > found["single bytes"] > 2 > found["pairs of bytes"] > 0
    assert found["gzip -9"] == pytest.approx(8 * len(gzip.compress(content + b"ab", 9)) / 63002)
    assert set(found) == {"uniform", "single bytes", "pairs of bytes", "gzip -9", "bz2 -9"}


@pytest.mark.parametrize("make", EXACT)
def test_documents_begin_as_their_tokenizer_begins_them(make, tmp_path):
    tokenizer, text = make(), "the cat, 日本\n" * 3000
    model = tiny_lm(vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    options = ["--eval_file", str(tmp_path / "text.txt"), "--stride", "95"]
    result = run(tmp_path, *options, "--per_device_eval_batch_size", "64")
    assert result["bytes_scored"] == len(text.encode())
    assert result["tokens_scored"] == len(tokenizer(text)["input_ids"]) - 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either dataset_name or eval_file"),
        (["--eval_file", "none.txt"], "none.txt: there is no such file"),
        (["--dataset_name", "no/such"], "could not be loaded"),
        (["--eval_file", "text.txt", "--context_length", "97"], "at most 96"),
        (["--eval_file", "text.txt", "--stride", "96"], "stride=96"),
        (["--eval_file", "text.txt", "--text_column_name", "body"], "has the columns"),
        (["--eval_file", "text.txt", "--max_eval_samples", "0"], "max_eval_samples=0"),
        (["--eval_file", "latin.txt"], "latin.txt: byte 3 (0xe9, line 1) is not UTF-8 text"),
        (["--eval_file", "numbers.jsonl"], "row 2: column 'text' holds 0, no text"),
        (["--eval_file", "text.txt", "--stride", "0"], "stride=0"),
        (["--eval_file", "text.txt", "--context_length", "0"], "context_length=0"),
        (["--dataset_name", "text", "--data_format", "bytes"], "give eval_file"),
        (["--eval_file", "one.txt"], "nothing to score"),
        (["--eval_file", "empty.txt"], "empty.txt: a file without text"),
    ],
)
def test_errors_are_messages(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("text", "some text"), ("one", "a"), ("empty", "")):
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "numbers.jsonl").write_text('{"text": "a b c"}\n{"text": 0}\n')
    tiny_lm(vocab_size=258).save_pretrained(tmp_path / "model")
    ReformerHFByteTokenizer().save_pretrained(tmp_path / "model")
    assert main(["--model_name_or_path", "model", *options]) == 1
    assert message in capsys.readouterr().err

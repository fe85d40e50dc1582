import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

from reformer_hf import ReformerHFByteTokenizer, ReformerHFForCausalLM, ReformerHFTokenizer
from scripts import generate
from tests.models.tiny import tiny_lm
from tests.parity.published_models import TINY, build_stock, write_checkpoint
from tests.training.other_tokenizers import byte_level

ROOT = Path(__file__).parents[2]
PROMPT = "Some text, not néw\r\n"
PROMPT_TOKENS = len(PROMPT.encode())


def save(folder, **fields):
    # Prompts are longer than this, which must not be what limits them.
    tokenizer = ReformerHFByteTokenizer(model_max_length=4)
    tokenizer.save_pretrained(folder)
    tiny_lm(vocab_size=tokenizer.vocab_size, eos_token_id=None, **fields).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 96 positions that never ends a text by itself."""
    return save(tmp_path_factory.mktemp("model"))


def run(folder, *options, prompt=PROMPT):
    prompt = [] if prompt is None else ["--prompt", prompt]
    return generate.main(["--model", str(folder), "--max_new_tokens", "30", *prompt, *options])


def expected_text(folder, model_class=AutoModelForCausalLM, **options):
    model = model_class.from_pretrained(folder)
    tokenizer = ReformerHFByteTokenizer()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    options = {"max_new_tokens": 30, "do_sample": False} | options
    output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True) + "\n"


def give_stdin(monkeypatch, data, is_terminal=False):
    stdin = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: is_terminal)
    monkeypatch.setattr(sys, "stdin", stdin)


def record_writes(monkeypatch):
    """What is written to stdout from now on, piece by piece."""
    pieces = []
    stdout = SimpleNamespace(write=pieces.append, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", stdout)
    return pieces


def test_only_the_continuation_goes_to_stdout(folder, capsys, monkeypatch):
    # transformers writes its warnings to the stderr of before the test.
    monkeypatch.setattr("transformers.tokenization_utils_base.logger.warning", pytest.fail)
    assert run(folder) == 0
    captured = capsys.readouterr()
    assert captured.out == expected_text(folder)
    number = r"[\d,]+(\.\d+)?"
    patterns = [
        rf"{re.escape(str(folder))}: {number} parameters, torch.float32, .*, loaded in .*",
        rf"prompt: {PROMPT_TOKENS} tokens, prefill {number} s \({number} tokens/s\)",
        rf"new: 30 tokens, decode {number} s \({number} tokens/s\)",
        rf"peak resident memory: {number} GB",
    ]
    for pattern, line in zip(patterns, captured.err.splitlines(), strict=True):
        assert re.fullmatch(pattern, line)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"repetition_penalty": 1.5, "num_hashes": 4},
        {"prompt_lookup_num_tokens": 2},
        {"max_new_tokens": 1},
    ],
)
def test_options_mean_what_they_mean_to_generate(folder, capsys, options):
    named = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert run(folder, "--echo_prompt", *named) == 0
    assert capsys.readouterr().out == PROMPT + expected_text(folder, **options)


def test_an_assistant_drafts_several_tokens(folder, capsys, monkeypatch):
    step, steps = generate.StepClock.__call__, []

    def observed(*args, **kwargs):
        steps.append(args)
        return step(*args, **kwargs)

    monkeypatch.setattr(generate.StepClock, "__call__", observed)
    assert run(folder, "--assistant_model", str(folder)) == 0
    captured = capsys.readouterr()
    assert captured.out == expected_text(folder) and "new: 30 tokens" in captured.err
    assert len(steps) < 20


@pytest.mark.parametrize(
    "scope, options, expected",
    [
        ("band", [], [8, 8, 5, 1, 1]),
        ("band", ["--prefill_chunk_size", "16"], [16, 5, 1, 1]),
        ("band", ["--no_use_cache"], [21, 22, 23]),
        ("chunk", [], [21, 1, 1]),
    ],
)
def test_how_prompts_are_read(tmp_path, capsys, monkeypatch, scope, options, expected):
    folder = save(tmp_path, attention_scope=scope)
    text = expected_text(folder, max_new_tokens=3)
    monkeypatch.setattr(generate, "PREFILL_CHUNK_SIZE", 8)
    lengths = []
    forward = ReformerHFForCausalLM.forward

    def observed(self, input_ids=None, **kwargs):
        lengths.append(input_ids.shape[1])
        return forward(self, input_ids, **kwargs)

    monkeypatch.setattr(ReformerHFForCausalLM, "forward", observed)
    assert run(folder, "--max_new_tokens", "3", *options) == 0
    assert capsys.readouterr().out == text
    assert lengths == expected


def test_sampling_is_reproduced_by_its_seed(folder, capsys):
    def sample(*options):
        assert run(folder, "--do_sample", "--top_k", "0", *options) == 0
        captured = capsys.readouterr()
        return captured.out, re.search(r"seed: (\d+)", captured.err)[1]

    set_seed(3)
    expected = expected_text(folder, do_sample=True, top_k=0)
    assert sample("--seed", "3") == (expected, "3")
    torch.manual_seed(3)  # which must not decide
    text, seed = sample()
    torch.manual_seed(3)
    other_text, other_seed = sample()
    assert other_seed != seed and other_text != text == sample("--seed", seed)[0]


def test_prompts_from_files_and_pipes_are_used_as_they_are(folder, tmp_path, capsys, monkeypatch):
    file = tmp_path / "prompt.txt"
    file.write_bytes(PROMPT.encode())
    expected = expected_text(folder)
    assert run(folder, "--prompt_file", str(file), prompt=None) == 0
    assert capsys.readouterr().out == expected
    file.write_bytes(PROMPT.encode("utf-8-sig"))  # a byte-order mark is no text
    assert run(folder, "--prompt_file", str(file), prompt=None) == 0
    assert capsys.readouterr().out == expected
    for options in ([], ["--prompt_file", "-"]):
        give_stdin(monkeypatch, PROMPT.encode())
        assert run(folder, *options, prompt=None) == 0
        assert capsys.readouterr().out == expected


def test_a_prompt_begins_a_document_and_does_not_end_it(tmp_path, capsys):
    tokenizer = byte_level()  # which puts an end of sequence behind a text
    tokenizer.save_pretrained(tmp_path)
    tiny_lm(vocab_size=len(tokenizer), eos_token_id=None).save_pretrained(tmp_path)
    ids = tokenizer(PROMPT).input_ids
    assert ids[-1] == tokenizer.eos_token_id and ids[0] == tokenizer.bos_token_id
    assert run(tmp_path, "--max_new_tokens", "1") == 0
    assert f"prompt: {len(ids) - 1} tokens" in capsys.readouterr().err


def test_text_appears_while_it_is_generated(folder, monkeypatch):
    writes = record_writes(monkeypatch)
    assert run(folder) == 0
    assert "".join(writes) == expected_text(folder)
    assert len([piece for piece in writes if piece]) > 20  # of 30 tokens


def stream(tokenizer, prompt_ids, new_ids, size=1):
    output = generate.TextStream(tokenizer, "")
    output.put(torch.tensor([prompt_ids]))
    for part in torch.tensor(new_ids, dtype=torch.long).split(size):
        output.put(part)
        assert len(output.ids) < 200  # or decoding costs more and more
    output.end()


def byte_fallback_tokenizer():
    """As of vocabularies whose rare characters are spelt in bytes, at the byte tokenizer's ids."""
    vocabulary = {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("build", [ReformerHFByteTokenizer, byte_fallback_tokenizer])
def test_a_character_is_written_when_its_last_byte_is_there(monkeypatch, build):
    writes = record_writes(monkeypatch)
    stream(build(), [100], ReformerHFByteTokenizer.encode_bytes("né€😀".encode()))
    assert [piece for piece in writes if piece] == ["n", "é", "€", "😀", "\n"]


BYTES = st.lists(
    st.one_of(
        st.binary(max_size=5),
        st.text(max_size=5).map(str.encode),
        st.sampled_from([b"\x80" * 90, b"\xe2" * 90, b"\xf0\x9f\x98" * 40, b"\xef\xbf\xbd" * 30]),
    ),
    max_size=20,
).map(b"".join)


@given(BYTES, st.integers(1, 100), st.sets(st.integers(0, 300)))
@settings(max_examples=100)
def test_streamed_bytes_are_the_decoded_text(data, size, ends):
    tokenizer = ReformerHFByteTokenizer()
    ids = tokenizer.encode_bytes(data)
    for place in ends:  # a special token anywhere is no text
        ids.insert(place, tokenizer.pad_token_id)
    with pytest.MonkeyPatch.context() as monkeypatch:
        writes = record_writes(monkeypatch)
        stream(tokenizer, tokenizer.encode_bytes(b"prompt"), ids, size)
    assert "".join(writes) == tokenizer.decode(ids, skip_special_tokens=True) + "\n"


@pytest.mark.parametrize("before, inside", [(b"\x80", []), (b"", [0])])  # 0: padding
def test_long_noise_before_and_in_a_character(monkeypatch, before, inside):
    tokenizer = ReformerHFByteTokenizer()
    first, *others = tokenizer.encode_bytes("€".encode())
    for length in range(100, 150):
        ids = [*tokenizer.encode_bytes(before * length), first, *inside * length, *others]
        writes = record_writes(monkeypatch)
        stream(tokenizer, [100], ids)
        assert "".join(writes) == tokenizer.decode(ids, skip_special_tokens=True) + "\n"


@given(st.text("a€😀", min_size=1, max_size=150), st.text("aé€😀", max_size=150))
@settings(max_examples=100)
def test_streamed_characters_spelt_in_bytes(prompt, text):
    tokenizer = byte_fallback_tokenizer()
    prompt_ids, ids = (ReformerHFByteTokenizer.encode_bytes(s.encode()) for s in (prompt, text))
    with pytest.MonkeyPatch.context() as monkeypatch:
        writes = record_writes(monkeypatch)
        stream(tokenizer, prompt_ids, ids)
    assert "".join(writes) == text + "\n"


def test_pieces_keep_their_spaces(monkeypatch):
    writes = record_writes(monkeypatch)
    text = "the cat sat on the mat and the cat sat on the hat " * 8
    tokenizer = ReformerHFTokenizer.train_from_iterator([text], 40)
    ids = tokenizer(text).input_ids
    tokenizer.backend_tokenizer.decoder = decoders.Metaspace()  # drops the first space of a text
    assert len(ids) > 100 and tokenizer.decode(ids[1:])[:3] == "cat"
    stream(tokenizer, ids[:1], ids[1:])
    assert "the" + "".join(writes) == text + "\n"


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("steps", [0, 7])
def test_ctrl_c_leaves_what_there_is(folder, capsys, monkeypatch, num_beams, steps):
    options = {"num_beams": num_beams, "max_new_tokens": steps}
    expected = expected_text(folder, **options) if steps else "\n"
    step = generate.StepClock.__call__

    def interrupted(clock, ids, *args):
        if ids.shape[1] > PROMPT_TOKENS + steps:
            raise KeyboardInterrupt
        return step(clock, ids, *args)

    monkeypatch.setattr(generate.StepClock, "__call__", interrupted)
    assert run(folder, "--num_beams", str(num_beams)) == 130
    captured = capsys.readouterr()
    assert captured.out == expected and f"new: {steps} tokens" in captured.err
    assert ("prefill not finished" in captured.err) == (not steps)


def test_a_reader_that_leaves_is_no_error(folder, capsys, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert run(folder) == 141
    assert len(capsys.readouterr().err.splitlines()) == 1  # that the model is loaded


@pytest.mark.parametrize(
    "options, message",
    [
        (["--model", "no/such/folder"], "no/such/folder is no folder here"),
        (["--tokenizer", "no/such"], "no/such is no folder here, and the Hub did not give it: .*"),
        (["--model", str(ROOT / "tests")], "model_type"),
        (["--device", "abacus"], "device=abacus: Expected one of cpu"),
        (["--max_new_tokens", "90"], "110 .*96.*shorten the prompt"),
        (["--num_beams", "0"], "num_beams=0: must be 1 or more"),
        (["--prefill_chunk_size", "-1"], "prefill_chunk_size=-1: must be 1 or more"),
        (["--num_hashes", "0"], "num_hashes=0"),
        (["--do_sample", "--temperature", "0"], "temperature"),
        (["--do_sample", "--top_p", "1.5"], "top_p=1.5: must be above 0 and at most 1"),
        (["--do_sample", "--seed", "-1"], "[Ss]eed"),
        (["--temperature", "0.5"], "temperature=0.5 is for sampling: add --do_sample"),
        (["--prefill_chunk_size", "4", "--prompt_lookup_num_tokens", "2"], "leave one of them out"),
        (["--prefill_chunk_size", "4", "--no_use_cache"], "without a cache"),
        (["--prompt", "a", "--prompt_file", "b"], "choose one"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt_file", "no/such/file"], "No such file.*no/such/file"),
        (["--misspelt", "1"], "--misspelt"),
    ],
)
def test_bad_input_is_one_readable_line(folder, capsys, options, message):
    prompt = None if {"--prompt", "--prompt_file"} & set(options) else PROMPT
    assert run(folder, *options, prompt=prompt) == 2
    captured = capsys.readouterr()
    *before, error = captured.err.splitlines()
    assert error.startswith("error: ") and re.search(message, error)
    assert captured.out == "" and not any("rror" in line for line in before)


@pytest.mark.parametrize(
    "data, is_terminal, message",
    [
        (b"", False, "the prompt is empty"),
        (b"\xff\xfe", False, "prompt_file=- is not UTF-8 text"),
        (b"text", True, "no prompt: give --prompt or --prompt_file"),
    ],
)
def test_bad_stdin(folder, capsys, monkeypatch, data, is_terminal, message):
    give_stdin(monkeypatch, data, is_terminal)
    assert run(folder, prompt=None) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(f"error: {message}.*\n", captured.err) and captured.out == ""


def test_checkpoints_of_transformers_are_run_by_this_package(tmp_path):
    config = {**TINY, "vocab_size": 258}
    stock = build_stock(config, torch.float32)
    stock.lm_head.bias.data.normal_()  # which transformers does not apply
    folder = write_checkpoint(tmp_path, config, stock.state_dict())
    options = ["--model", folder, "--tokenizer", "byte", "--max_new_tokens", "30"]
    done = subprocess.run(
        [sys.executable, "scripts/generate.py", *options],
        input=PROMPT.encode(),
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    expected = expected_text(folder, ReformerHFForCausalLM)
    assert done.stdout == expected.encode("ascii", errors="replace")
    assert b"new: " in done.stderr

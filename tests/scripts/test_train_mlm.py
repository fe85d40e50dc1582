"""Runs of train_mlm.py on a few tiny texts."""

import json
import math

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from reformer_hf import ReformerHFByteTokenizer
from scripts import train_mlm
from tests.models.tiny import tiny_lm
from tests.training.runs import tiny_overrides


@pytest.fixture
def run(tmp_path):
    """Runs the script; returns the results and the output folder."""
    text = tmp_path / "text.txt"
    text.write_text("one two three four five\n" * 60)

    def run(*options: str, steps: int = 4, folder: str = "run", new: bool = True):
        directory = tmp_path / folder
        arguments = ["--train_file", str(text), "--output_dir", str(directory), "--use_cpu"]
        arguments += ["--cache_dir", str(tmp_path / "cache"), "--block_size", "64"]
        arguments += ["--do_train", "--do_eval", "--max_steps", str(steps)]
        arguments += ["--report_to", "none", "--disable_tqdm", "True", "--learning_rate", "0.01"]
        if new:
            arguments += ["--config_overrides", tiny_overrides()]
        assert train_mlm.main([*arguments, *options]) == 0
        return json.loads((directory / "all_results.json").read_text()), directory

    return run


def test_it_learns_and_fills_in_bytes(run):
    start, _ = run(steps=1, folder="start")
    results, folder = run("--mlm_probability", "0.3", steps=150)
    assert results["eval_loss"] < start["eval_loss"] / 2
    assert "eval_bits_per_byte" not in results and results["eval_tokens"] > 0
    record = json.loads((folder / "run_record.json").read_text())
    assert record["comparison"]["scored"] == results["eval_tokens"]  # and with the same masks
    assert record["comparison"]["verdict"] == "better than all of these"
    # Of single letters in "one two three four five\n" little more is known than how many there are.
    assert 3 < results["eval_single_tokens_bits_per_masked_token"] < math.log2(12)
    assert AutoModelForMaskedLM.from_pretrained(folder).config.vocab_size == 259
    assert AutoTokenizer.from_pretrained(folder).mask_token_id == 258
    fill = pipeline("fill-mask", model=str(folder))
    assert fill("one two three f<mask>ur five\n", top_k=1)[0]["token_str"] == "o"


def test_every_evaluation_hides_the_same_tokens(run):
    options = ["--eval_strategy", "steps", "--eval_steps", "2", "--learning_rate", "1e-30"]
    _, folder = run(*options, steps=4)
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    measured = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert len(measured) >= 2 and len(set(measured)) == 1


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(run):
    options = ["--save_steps", "3", "--lr_scheduler_type", "constant"]
    whole, _ = run(*options, steps=6, folder="whole")
    run(*options, steps=3, folder="cut")
    resumed, _ = run(*options, "--resume_from_checkpoint", "last", steps=6, folder="cut")
    assert resumed["eval_loss"] == whole["eval_loss"]


def test_from_a_causal_checkpoint(run, tmp_path):
    causal = tiny_lm(vocab_size=258)
    causal.save_pretrained(tmp_path / "causal")
    ReformerHFByteTokenizer().save_pretrained(tmp_path / "causal")
    options = ["--model_name_or_path", str(tmp_path / "causal"), "--max_eval_samples", "2"]
    _, folder = run(*options, "--learning_rate", "1e-30", steps=1, new=False)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    assert model.config.is_decoder is False and model.config.vocab_size == 259
    key = "reformer.encoder.layers.0.attention.self_attention.query.weight"
    assert torch.equal(model.state_dict()[key], causal.state_dict()[key])


def test_bad_input_is_one_readable_line(tmp_path, capsys):
    arguments = ["--output_dir", str(tmp_path), "--train_file", "no.txt", "--do_train", "--use_cpu"]
    assert train_mlm.main([*arguments, "--mlm_probability", "15"]) == 1
    assert "error: mlm_probability=15.0" in capsys.readouterr().err
    assert train_mlm.main(arguments) == 1
    assert "no.txt: there is no such file" in capsys.readouterr().err

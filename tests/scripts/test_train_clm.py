import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
)
from reformer_hf.training.build import build_model
from reformer_hf.training.data.labelled import ClassificationDataArguments
from reformer_hf.training.parsing import parse_arguments
from reformer_hf.training.row_schedule import choose_row_schedule
from scripts import train_clm, train_clm_no_trainer
from tests.training.runs import tiny_overrides

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "scripts" / "configs"
KINDS = (PretrainedModelArguments, DataTrainingArguments, ReformerTrainingArguments)


@pytest.fixture
def text_file(tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"line {index}\n" for index in range(400)))
    return str(tmp_path / "text.txt")


@pytest.mark.parametrize("script", [train_clm, train_clm_no_trainer])
def test_help_reads_well(script, capsys):
    with pytest.raises(SystemExit, match="0"):
        script.main(["--help"])
    printed = capsys.readouterr().out
    for words in ("FILE.yaml", "model:", "data:", "--block_size", "--resume_from_checkpoint"):
        assert words in printed
    assert "What a row holds." in printed and script.__doc__.splitlines()[0] in printed


@pytest.mark.parametrize("script", [train_clm, train_clm_no_trainer])
def test_bad_input_is_one_readable_line(script, capsys, tmp_path):
    arguments = ["--output_dir", str(tmp_path / "run"), "--train_file", "no/file.txt"]
    if script is train_clm:
        arguments += ["--do_train", "--use_cpu"]
    assert script.main(arguments) == 1
    error = capsys.readouterr().err
    assert "error: train_file=no/file.txt: there is no such file" in error
    assert script.main(arguments[:2]) == 1
    missing = "error: dataset_name, train_file, validation_file are all missing"
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("script", [train_clm, train_clm_no_trainer])
def test_a_text_that_is_not_utf_8_is_one_line(script, streaming, capsys, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"a b c\n" * 5000 + b"caf\xe9\n")
    arguments = ["--output_dir", str(tmp_path / "run"), "--config_overrides", tiny_overrides()]
    arguments += ["--train_file", str(tmp_path / "latin.txt"), "--block_size", "64"]
    arguments += ["--cache_dir", str(tmp_path / "cache")]
    if script is train_clm:
        arguments += ["--do_train", "--use_cpu", "--report_to", "none"]
    if streaming:
        name = "--max_steps" if script is train_clm else "--max_train_steps"
        arguments += ["--streaming", name, "2000"]
    assert script.main(arguments) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "latin.txt: byte 30,003 (0xe9, line 5,001) is not UTF-8 text; save" in error


def test_the_small_configuration_trains(text_file, tmp_path, capsys):
    arguments = [str(CONFIGS / "small_cpu.yaml"), "--train_file", text_file, "--use_cpu"]
    arguments += ["--cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "run")]
    arguments += ["--block_size", "256", "--row_lengths", "64", "256", "--tokens_per_step", "256"]
    arguments += ["--max_steps", "3", "--report_to", "none"]
    assert train_clm.main(arguments) == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert 0 < results["eval_bits_per_byte"] < 9
    card = " ".join((tmp_path / "run" / "README.md").read_text().split())
    verdict = re.search(r"This model is (.*)\.\n", capsys.readouterr().out)[1]
    assert f"This model needs {results['eval_bits_per_byte']:.3f}: {verdict}. Pairs and n" in card
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["attn_layers"] == ["local", "lsh", "local", "lsh"]


NEW_MODELS = ["small_cpu", "documents", "log", "dna"]


@pytest.mark.parametrize("name", NEW_MODELS)
def test_the_configurations_for_a_kind_of_data_make_a_model(name):
    """Row lengths and optimizer that the model fits, which the parser alone does not see."""
    path, file = str(CONFIGS / f"{name}.yaml"), str(CONFIGS)
    model_arguments, data, training = parse_arguments(KINDS, [path, "--train_file", file])
    with torch.device("meta"):
        model = build_model(
            ReformerHFForCausalLM, model_arguments, ReformerHFByteTokenizer(), data.block_size
        )
    phases = choose_row_schedule(data, training, data.block_size, training.max_steps, 1).phases
    assert phases[-1][2] == data.block_size and all(steps > 0 for steps, *_ in phases)
    assert model.config.position_embedding_type == "rotary" and model.config.lsh_local_round
    assert training.muon_learning_rate > training.learning_rate


def test_a_folder_of_documents_is_tried_dry(tmp_path, capsys):
    folder = tmp_path / "texts" / "deeper"
    folder.mkdir(parents=True)
    for number in range(40):
        (folder / f"{number}.md").write_text(f"# Page {number}\n" + "words of it\n" * 20)
    arguments = [str(CONFIGS / "documents.yaml"), "--train_file", str(tmp_path / "texts/**/*.md")]
    arguments += ["--cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "run")]
    arguments += ["--block_size", "256", "--row_lengths", "64", "256", "--tokens_per_step", "256"]
    assert train_clm.main([*arguments, "--dry_run"]) == 0, capsys.readouterr().err
    assert "Dry run: nothing is kept" in capsys.readouterr().out and not (tmp_path / "run").exists()


def test_enwik8_is_the_papers_model():
    model_arguments, data, training = parse_arguments(
        KINDS, [str(CONFIGS / "enwik8_64k.yaml"), "--bf16", "False"]
    )
    with torch.device("meta"):
        model = build_model(
            ReformerHFForCausalLM, model_arguments, ReformerHFByteTokenizer(), data.block_size
        )
    config = model.config
    assert config.num_hidden_layers == 12 and config.attn_layers.count("lsh") == 3
    assert (config.hidden_size, config.feed_forward_size) == (1024, 4096)
    assert config.position_limit == data.block_size == 65536
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 8
    # 1/32 * min(1, step / 2000) / sqrt(max(step, 2000)), at its highest
    assert training.learning_rate == pytest.approx(1 / 32 / 2000**0.5, rel=1e-4)


def test_the_fine_tuning_configuration_is_accepted(text_file):
    arguments = [str(CONFIGS / "finetune_checkpoint.yaml"), "--train_file", text_file]
    model, data, _ = parse_arguments(KINDS, arguments)
    assert model.use_lora and model.tokenizer_name == "bytes" and data.packing == "blocks"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("[!a]*.yaml")), ids=lambda path: path.stem)
def test_configurations_name_arguments_that_there_are(path, text_file):
    overrides = ["--train_file", text_file, "--bf16", "False"]
    data = ClassificationDataArguments if "classification" in path.stem else DataTrainingArguments
    kinds = (PretrainedModelArguments, data, ReformerTrainingArguments)
    parsed = parse_arguments(kinds, [str(path), *overrides])
    values = yaml.safe_load(path.read_text())
    fields = {name: value for part in parsed for name, value in vars(part).items()}
    length = "max_seq_length" if "classification" in path.stem else "block_size"
    for name in (length, "learning_rate", "output_dir"):
        assert fields[name] == values[name]


def test_the_loop_trains_and_uploads(text_file, tmp_path, monkeypatch, capsys):
    calls = []

    def push_folder(*args, **kwargs):
        calls.append((args, kwargs))
        return SimpleNamespace(commit_url="https://hub/me/run")

    monkeypatch.setattr(train_clm_no_trainer, "push_folder", push_folder)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    arguments = ["--train_file", text_file, "--output_dir", str(tmp_path / "run")]
    arguments += ["--cache_dir", str(tmp_path / "cache"), "--block_size", "128"]
    arguments += ["--config_overrides", tiny_overrides(), "--max_train_steps", "2"]
    arguments += ["--push_to_hub", "--token", "secret"]
    assert train_clm_no_trainer.main(arguments) == 0, capsys.readouterr().err
    expected = (str(tmp_path / "run"), "run"), {"token": "secret", "exist_ok": True}
    assert calls == [expected] and "https://hub/me/run" in capsys.readouterr().out
    assert (tmp_path / "run" / "all_results.json").exists()
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"secret" in path.read_bytes() for path in written)

"""What scripts choose for a new model, and what they leave to the user."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from reformer_hf import ReformerHFConfig, quickstart
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    LoopArguments,
    MaskedDataArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
)
from reformer_hf.training.build import parse_overrides
from reformer_hf.training.data.labelled import ClassificationDataArguments
from reformer_hf.training.parsing import parse_arguments
from reformer_hf.training.recipe import CLASSIFIER_OPTIMIZER, new_model_recipe
from reformer_hf.training.settings_files import read_settings
from scripts import train_clm, train_clm_no_trainer
from tests.training.runs import tiny_overrides

CONFIGS = Path(__file__).resolve().parents[2] / "scripts" / "configs"
KINDS = (PretrainedModelArguments, DataTrainingArguments, ReformerTrainingArguments)
BASE = ["--train_file", "x", "--do_train", "--use_cpu"]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)


def parse(*arguments, kinds=KINDS, base=BASE):
    return parse_arguments(kinds, [*arguments, *base], complete=new_model_recipe)


def fields_of(model):
    return parse_overrides(model.config_overrides)


def test_a_new_model_gets_the_recipe_and_the_script_says_so(capsys):
    model, data, training = parse()
    assert fields_of(model) == {
        "position_embedding_type": "rotary",
        "conv_kernel": 2,
        "use_qk_norm": True,
        "lsh_local_round": True,
        "lsh_next_values": True,
        "ngram_sizes": [2, 3, 4, 5],
    }
    assert (data.block_size, data.row_lengths) == (8192, [512, 1024, 2048, 8192])
    assert data.tokens_per_step == [2048]
    assert (training.learning_rate, training.muon_learning_rate) == (3e-3, 1e-2)
    assert (training.adam_beta2, training.warmup_steps) == (0.95, 20)
    assert training.lr_scheduler_type == "cosine"
    printed = capsys.readouterr().out
    assert "For a new model" in printed and "--muon_learning_rate 1e-2" in printed
    assert "--row_lengths 512 1024 2048 8192 --tokens_per_step 2048" in printed
    assert "ngram_sizes=[2,3,4,5]' --" in printed  # a shell takes it as it is


def test_the_loop_has_the_same_under_its_names():
    kinds = (PretrainedModelArguments, DataTrainingArguments, LoopArguments)
    model, data, loop = parse("--block_size", "1536", kinds=kinds, base=["--train_file", "x"])
    assert (loop.muon_learning_rate, loop.num_warmup_steps) == (1e-2, 20)
    assert data.row_lengths == [512, 1536]  # which 1,024 does not divide
    assert fields_of(model)["conv_kernel"] == 2


def test_what_is_given_stays(tmp_path):
    model, data, training = parse(
        *("--config_overrides", "conv_kernel=3,ngram_sizes=[]", "--muon_learning_rate", "0"),
        *("--row_lengths", "64", "--block_size", "64", "--lr_scheduler_type", "constant"),
    )
    fields = fields_of(model)
    assert (fields["conv_kernel"], fields["ngram_sizes"]) == (3, [])
    assert fields["position_embedding_type"] == "rotary"
    assert (data.row_lengths, data.tokens_per_step) == ([64], None)
    assert (training.learning_rate, training.muon_learning_rate) == (3e-3, 0)
    assert training.warmup_steps == 0  # a constant rate does not rise
    path = tmp_path / "settings.yaml"
    path.write_text("adam_beta2: 0.9\nmuon_learning_rate: null\nrow_lengths: null\n")
    _, data, training = parse_arguments(KINDS, [str(path), *BASE], complete=new_model_recipe)
    assert (training.adam_beta2, training.muon_learning_rate) == (0.9, None)
    assert data.row_lengths is None and training.learning_rate == 3e-3


@pytest.mark.parametrize("given", [("--learning_rate", "1e-3"), ("--optim", "adafactor")])
def test_an_optimizer_of_the_users_is_left_alone(given):
    _, data, training = parse(*given)
    plain = ReformerTrainingArguments("x", use_cpu=True)
    for name in ("muon_learning_rate", "adam_beta2", "lr_scheduler_type", "warmup_steps"):
        assert getattr(training, name) == getattr(plain, name)
    assert data.row_lengths is not None


@pytest.mark.parametrize(
    "given",
    [
        ("--per_device_train_batch_size", "2"),
        ("--packing", "none"),
        ("--block_size", "512"),  # of which nothing shorter is among the lengths
        ("--streaming", "--max_steps", "3"),
        ("--save_strategy", "epoch"),
        ("--max_minutes", "60", "--num_train_epochs=1"),
        ("--config_overrides", "axial_pos_shape=[16,16]"),
    ],
)
def test_rows_do_not_grow_where_something_else_decides_them(given):
    model, data, training = parse(*given)
    assert data.row_lengths is data.tokens_per_step is None
    assert training.muon_learning_rate == 1e-2
    if "--config_overrides" in given:
        assert fields_of(model)["position_embedding_type"] == "axial"


@pytest.mark.parametrize(
    "given", [("--model_name_or_path", "m"), ("--config_name", "c"), ("--do_train", "False")]
)
def test_checkpoints_configurations_and_evaluations_get_none_of_it(given, capsys):
    model, data, training = parse(*given, base=["--train_file", "x", "--use_cpu"])
    plain = ReformerTrainingArguments("x", use_cpu=True)
    assert model.config_overrides is data.row_lengths is data.block_size is None
    assert training.learning_rate == plain.learning_rate
    assert capsys.readouterr().out == ""


def test_other_tokens_other_scopes_and_other_data(monkeypatch):
    model, *_ = parse("--tokenizer_name", "pieces")
    assert "ngram_sizes" not in fields_of(model)
    model, *_ = parse("--config_overrides", "attention_scope=chunk")
    assert fields_of(model) == {"attention_scope": "chunk"}
    model, *_ = parse("--config_overrides", "lsh_local_round=false")
    assert "lsh_next_values" not in fields_of(model)
    kinds = (PretrainedModelArguments, MaskedDataArguments, ReformerTrainingArguments)
    _, data, _ = parse("--max_seq_length", "1024", kinds=kinds)
    assert (data.block_size, data.row_lengths) == (1024, [512, 1024])
    _, data, _ = parse("--config_overrides", "max_position_embeddings=2048")
    assert (data.block_size, data.row_lengths) == (2048, [512, 1024, 2048])
    monkeypatch.setenv("WORLD_SIZE", "2")
    names = ("row_lengths", "block_size")
    assert new_model_recipe({"max_minutes": 1}, names) == {}  # no steps are timed there
    assert new_model_recipe({"max_minutes": 1, "max_steps": 9}, names).keys() == set(names)


def test_a_classifier_is_trained_with_adamw():
    kinds = (PretrainedModelArguments, ClassificationDataArguments, ReformerTrainingArguments)
    complete = partial(new_model_recipe, optimizer=CLASSIFIER_OPTIMIZER, causal=False)
    model, _, training = parse_arguments(kinds, BASE, complete=complete)
    assert fields_of(model)["ngram_sizes"] == [2, 3, 4, 5]
    assert "lsh_next_values" not in fields_of(model)
    assert (training.learning_rate, training.muon_learning_rate) == (2e-3, 0)
    assert training.lr_scheduler_type == "cosine"


def test_muon_is_not_chosen_where_it_would_be_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert new_model_recipe({}, ["muon_learning_rate"]) == {}
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert new_model_recipe({}, ["muon_learning_rate"]) == {"muon_learning_rate": "1e-2"}
    monkeypatch.delattr(torch.optim, "Muon")
    assert new_model_recipe({}, ["muon_learning_rate"]) == {}


def test_the_quickstarts_file_says_all_of_it(capsys):
    quickstart.parse([])
    assert capsys.readouterr().out == ""
    _, model, _, training = quickstart.parse(["--config_overrides", "hidden_size=64"])
    ours = fields_of(model)
    assert ours.pop("hidden_size") == 64 and ours["position_embedding_type"] == "rotary"
    written = parse_overrides(read_settings(quickstart.CONFIGURATION)["config_overrides"])
    assert all(written[name] == value for name, value in ours.items())
    assert training.max_minutes == 5.5


def test_a_configuration_of_the_papers_stays_the_papers():
    path = str(CONFIGS / "enwik8_64k.yaml")
    arguments = [path, "--bf16", "False", "--use_cpu"]
    model, data, training = parse_arguments(KINDS, arguments, complete=new_model_recipe)
    plain, ours = ReformerHFConfig(), ReformerHFConfig(**fields_of(model))
    for name in ("hidden_act", "conv_kernel", "lsh_local_round", "ngram_sizes"):
        assert getattr(ours, name) == getattr(plain, name)
    assert ours.position_embedding_type == "axial"
    assert data.row_lengths is training.muon_learning_rate is None


@pytest.mark.parametrize("name", ["dna", "documents", "log", "documents_classification"])
def test_files_with_recorded_results_leave_no_field_open(name):
    """Or the same file would train another model than the one whose results are there."""
    given = read_settings(CONFIGS / f"{name}.yaml")
    chosen = new_model_recipe(given, list(given), causal=name != "documents_classification")
    assert "config_overrides" not in chosen


@pytest.mark.parametrize("script", [train_clm, train_clm_no_trainer])
def test_a_run_with_next_to_no_arguments(script, tmp_path, capsys):
    """The epochs decide the steps of rows that grow."""
    (tmp_path / "text.txt").write_text("".join(f"line {index}\n" for index in range(800)))
    overrides = tiny_overrides().replace("axial_norm_std=0.02", "ngram_table_size=64")
    arguments = ["--train_file", str(tmp_path / "text.txt"), "--output_dir", str(tmp_path / "run")]
    arguments += ["--block_size", "1024", "--config_overrides", overrides]
    arguments += ["--cache_dir", str(tmp_path / "cache")]
    if script is train_clm:
        arguments += ["--do_train", "--use_cpu", "--report_to", "none"]
    assert script.main(arguments) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "run_record.json").read_text())
    rows = -(-len((tmp_path / "text.txt").read_bytes()) // 1024) - 1
    assert record["training"]["steps"] == round(3 * rows * 1024 / 2048)
    assert record["hyperparameters"]["row_lengths"] == "[512, 1024]"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["position_embedding_type"] == "rotary" and config["conv_kernel"] == 2

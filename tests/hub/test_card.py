"""Cards of runs: valid, complete, and their code runs."""

import copy
import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import Trainer, TrainingArguments

import reformer_hf
from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.hub.card import TASKS, build_run_card, task_of, use_run_card, write_run_card
from reformer_hf.hub.remote_code import add_remote_code
from reformer_hf.training.record import RunRecord
from tests.hub.conftest import TOKEN
from tests.hub.fake_validation import metadata_errors
from tests.models.seq2seq import tiny_seq2seq
from tests.models.tiny import tiny_config, tiny_lm

ARCHITECTURES = {end: f"ReformerHF{'' if end == 'Model' else 'For'}{end}" for end in TASKS}

RECORD = {
    "model": {
        "architecture": "ReformerHFForCausalLM",
        "parameters": 12345,
        "trained_parameters": 12345,
        "attention_scope": "band",
        "attn_layers": ["local", "lsh"],
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hashes": 2,
        "positions": 96,
        "started_from": None,
    },
    "data": {"description": 'it\'s "some" text: #1', "dataset": None, "evaluated_on": "the rest"},
    "training": {
        "steps": 1200,
        "epochs": 1.5,
        "seconds": 90.0,
        "timed_from_step": 0,
        "last_loss": 2.5,
    },
    "hyperparameters": {"learning_rate": 0.001, "optim": "adamw_torch"},
    "evaluation": {"loss": 2.25, "accuracy": 0.5},
    "machine": {
        "date": "2026-01-02T03:04:05+00:00",
        "processor": "Some CPU",
        "torch_threads": 2,
        "accelerator": None,
        "versions": {"python": "3.11.7", "datasets": None},
    },
}


def record(**changes):
    changed = copy.deepcopy(RECORD)
    for key, value in changes.items():
        group, name = key.split("__")
        changed[group][name] = value
    return changed


def plain(card):
    return " ".join(card.text.split())


@pytest.mark.parametrize("end", TASKS)
def test_the_metadata_is_what_the_hub_takes(end, tmp_path):
    made = record(model__architecture=ARCHITECTURES[end], data__dataset="ada/texts")
    card = build_run_card("A model: of mine", made, license="apache-2.0")
    assert metadata_errors(card.content) == []
    card.save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.pipeline_tag, data.license) == (TASKS[end].tag, "apache-2.0")
    assert data.datasets == ["ada/texts"]
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {"loss": 2.25, "accuracy": 0.5}
    assert {result.task_type for result in data.eval_results} == {TASKS[end].tag}


def test_the_hub_takes_it(hub):
    build_run_card("m", RECORD).validate()


def test_every_number_is_in_the_text():
    text = plain(build_run_card("m", RECORD, curve="loss_curve.png"))
    for fact in (
        "12,345 parameters)",
        "2 layers (local, lsh), `band` scope, at most 96 positions",
        'from random weights on it\'s "some" text: #1 with',
        "| loss | 2.2500 | | accuracy | 0.5000 |",
        "1,200 steps, 1.50 passes over the data, in 1.5 minutes, on Some CPU with 2 threads.",
        "Last logged loss: 2.5000.",
        "| learning_rate | 0.001 | | optim | adamw_torch |",
        "![Loss curve](loss_curve.png)",
        "python 3.11.7.",
        "2026-01-02",
        "Nobody has stated one for these weights",
        "This repository carries no code",
        "Kitaev",
    ):
        assert fact in text, fact
    assert "None" not in text and not re.search(r"{{|{%", text)


def test_what_is_not_known_is_told():
    changed = record(
        model__trained_parameters=45, model__started_from="ada/first", training__last_loss=None
    )
    changed["evaluation"] = {}
    changed["training"]["timed_from_step"] = 700
    card = build_run_card("m", changed, license="mit", has_code=True)
    text = plain(card)
    for fact in (
        "of which 45 were trained",
        "Trained from `ada/first` on",
        "Not evaluated.",
        "those from step 700 on took 1.5 minutes",
        "The weights: mit.",
        "trust_remote_code=True",
    ):
        assert fact in text, fact
    assert "Last logged" not in text and "Loss curve" not in text
    assert "model-index" not in yaml.safe_load(card.content.split("---")[1])


def test_references_are_told():
    made = record() | {"references": {"uniform": 8.0, "gzip -9": 1.75}}
    text = plain(build_run_card("m", made))
    assert "| accuracy | 0.5000 | The same bytes without a network, in bits per byte:" in text
    assert "per byte: uniform 8.000, gzip -9 1.750. ##" in text
    assert "without a network" not in plain(build_run_card("m", record()))
    compared = {"score": 2.5, "unit": "masked token", "verdict": "worse than x", "counted": {}}
    text = plain(build_run_card("m", made | {"comparison": compared}))
    assert "The same masked tokens without a network, in bits per masked token: uniform" in text
    assert "gzip -9 1.750. This model needs 2.500: worse than x. ##" in text
    compared["counted"] = {"units": 12345}
    text = plain(build_run_card("m", made | {"comparison": compared}))
    assert "were counted on 12,345 tokens of the training text. ##" in text


def test_references_with_metrics_are_columns():
    references = {"majority class": {"accuracy": 0.25}, "naive Bayes": {"f1": 1, "loss": 0.125}}
    verdict = {"metric": "accuracy", "verdict": "accuracy 0.5 is better"}
    made = record() | {"references": references, "comparison": verdict}
    text = build_run_card("m", made).text
    for line in (
        "| metric | this model | majority class | naive Bayes |",
        "|---|---|---|---|",
        "| loss | 2.2500 |  | 0.1250 |",
        "| accuracy | 0.5000 | 0.2500 |  |",
        "accuracy 0.5 is better.",
    ):
        assert f"\n{line}\n" in text, line
    assert "without a model" not in text


def test_a_model_without_a_limit_of_positions_says_so():
    made = record()
    made["model"]["positions"] = None
    text = plain(build_run_card("m", made))
    assert "`band` scope, no limit of positions. Trained" in text
    assert "beyond the length of its training rows was not measured." in text
    assert "are an error" not in text


def test_a_sample_is_shown_as_it_is():
    sample = {"prompt": "def f(x):\n", "text": "    return `x`\n```"}
    text = build_run_card("m", record() | {"sample": sample}).text
    assert "\n~~~~text\ndef f(x):\n\n~~~~\n" in text
    assert "\n~~~~text\n    return `x`\n```\n~~~~\n" in text
    assert "A sample" not in build_run_card("m", record()).text


def test_a_missing_fact_is_an_error():
    lacking = record()
    del lacking["machine"]
    with pytest.raises(ValueError, match="the record of the run lacks machine"):
        build_run_card("m", lacking)
    lacking = record()
    del lacking["training"]["steps"]
    with pytest.raises(Exception, match="steps"):
        build_run_card("m", lacking)
    with pytest.raises(ValueError, match="architecture='Other'"):
        task_of("Other")


def build_model(end):
    """A tiny model of a task, with a tokenizer of bytes and a mask."""
    if end == "CausalLM":
        return tiny_lm(vocab_size=260)
    if end == "ConditionalGeneration":
        return tiny_seq2seq(vocab_size=260)
    fields = {"vocab_size": 260, "is_decoder": False}
    return getattr(reformer_hf, ARCHITECTURES[end])(tiny_config(**fields))


@pytest.mark.parametrize("end", TASKS)
def test_the_code_in_the_card_runs(end, tmp_path, monkeypatch, capsys):
    model = build_model(end)
    model.save_pretrained(tmp_path)
    masks = {"mask_token": "<mask>"} if end == "MaskedLM" else {}
    ReformerHFByteTokenizer(**masks).save_pretrained(tmp_path)
    if end in ("CausalLM", "MaskedLM"):
        add_remote_code(tmp_path)
    (tmp_path / "run_record.json").write_text(
        json.dumps(record(model__architecture=type(model).__name__))
    )
    card = write_run_card(tmp_path).read_text()
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == (2 if end in ("CausalLM", "MaskedLM") else 1)
    monkeypatch.chdir(tmp_path)
    for snippet in snippets:
        exec(snippet, values := {})
        assert type(values["model"]).__name__ == ARCHITECTURES[end]
    assert capsys.readouterr().out


def train(folder, callbacks, **options):
    model = tiny_lm(vocab_size=258)
    rows = [{"input_ids": [5, 6, 7, 8] * 4, "labels": [5, 6, 7, 8] * 4} for _ in range(8)]
    options = {"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True} | options
    arguments = TrainingArguments(folder, max_steps=3, report_to="none", use_cpu=True, **options)
    trainer = Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows[:2], callbacks=callbacks
    )
    trainer.train()
    return trainer


def test_the_trainer_pushes_this_card(hub, tmp_path):
    folder = tmp_path / "tiny"
    callback = RunRecord("four bytes", evaluated_on="two rows of them")
    trainer = train(folder, [callback], push_to_hub=True, hub_private_repo=True)
    results = trainer.evaluate()
    use_run_card(trainer, license="apache-2.0")
    ReformerHFByteTokenizer().save_pretrained(folder)
    trainer.push_to_hub()
    files = hub.repositories["ada/tiny"].at("main").files
    assert {"model.safetensors", "config.json", "run_record.json", "tokenizer.json"} <= set(files)
    card = files["README.md"].decode()
    assert metadata_errors(card) == [] and "3 steps" in card and "four bytes" in card
    (result,) = ModelCard(card).data.eval_results
    assert result.metric_value == pytest.approx(results["eval_loss"], abs=1e-6)
    assert "license: apache-2.0" in card and "[](" not in card
    assert TOKEN.encode() not in b"".join(files.values())
    trainer.create_model_card(license="mit", model_name="Mine")
    card = (folder / "README.md").read_text()
    assert "license: mit" in card and "# Mine" in card


def test_the_trainers_own_file_of_arguments_holds_the_token(hub, tmp_path):
    """Why `push_folder` leaves it out, and HF_TOKEN is better than `hub_token`."""
    trainer = train(tmp_path / "tiny", [], hub_token=TOKEN)
    trainer.save_model()
    assert TOKEN.encode() in (tmp_path / "tiny" / "training_args.bin").read_bytes()


def test_a_card_needs_a_record(tmp_path):
    with pytest.raises(ValueError, match="run_record.json is not there: add the callback"):
        write_run_card(tmp_path)


def test_folders_name_their_models(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run_record.json").write_text(json.dumps(RECORD))
    assert "# mine" in write_run_card(tmp_path / "mine").read_text()

"""The whole way from pairs to a translation, and going on after an interruption."""

import json

import datasets
import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, Seq2SeqTrainer

from scripts import train_seq2seq

WORDS = {"file": "Datei", "folder": "Ordner", "page": "Seite", "user": "Nutzer", "key": "Taste"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def pairs(tmp_path):
    """Training, validation and test files."""
    lines = [
        json.dumps({"translation": {"en": f"{word} {number}", "de": f"{wort} {number}"}})
        for number in range(12)
        for word, wort in WORDS.items()
    ]
    for name, part in (("train", lines[:48]), ("validation", lines[48:54]), ("test", lines[54:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    return tmp_path


SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "feed_forward_size": 16,
    "vocab_size": 310,
}


def arguments(pairs, output, flags=("do_train", "do_eval", "do_predict"), **changes):
    values = (
        {
            "source_lang": "en",
            "target_lang": "de",
            "train_file": pairs / "train.jsonl",
            "validation_file": pairs / "validation.jsonl",
            "test_file": pairs / "test.jsonl",
            "output_dir": output,
            "max_source_length": 16,
            "max_target_length": 16,
            "max_steps": 6,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "label_smoothing_factor": 0.1,
            "num_beams": 2,
            "logging_steps": 1,
            "save_steps": 2,
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
        }
        | ({} if "model_name_or_path" in changes else SIZES)
        | changes
    )
    options = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    return options + [f"--{flag}" for flag in (*flags, "predict_with_generate")]


def test_a_run_ends_with_bleu_translations_and_a_model_that_loads(pairs, tmp_path, capsys):
    assert train_seq2seq.main(arguments(pairs, tmp_path / "run")) == 0
    folder = tmp_path / "run" / "model"
    record = json.loads((folder / "metrics.json").read_text())
    assert {"eval_loss", "eval_bleu", "predict_bleu"} <= record["metrics"].keys()
    assert record["metrics"]["predict_bleu_signature"].startswith("nrefs:1|")
    assert record["pairs"] == {"train": 48, "validation": 6, "test": 6}
    assert len((folder / "generated_predictions.txt").read_text().splitlines()) == 6
    losses = [entry["loss"] for entry in record["log"] if "loss" in entry]
    assert len(losses) == 6 and losses[-1] < losses[0]

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    ids = tokenizer("file 3", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=4).shape[0] == 1

    capsys.readouterr()
    assert train_seq2seq.main(arguments(pairs, tmp_path / "run")) == 0
    assert "This run is finished" in capsys.readouterr().out

    # The model that was saved is evaluated, without training.
    again = arguments(
        pairs, tmp_path / "again", ["do_predict"], model_name_or_path=folder, train_file="a.jsonl"
    )
    assert train_seq2seq.main(again) == 1  # a file that is missing
    again = arguments(pairs, tmp_path / "again", ["do_predict"], model_name_or_path=folder)
    assert train_seq2seq.main(again) == 0
    metrics = json.loads((tmp_path / "again" / "model" / "metrics.json").read_text())["metrics"]
    assert metrics["predict_bleu"] == record["metrics"]["predict_bleu"]
    assert metrics["predict_loss"] == pytest.approx(record["metrics"]["predict_loss"])


def test_an_interrupted_run_ends_like_another(pairs, tmp_path, capsys, monkeypatch):
    step = Seq2SeqTrainer.training_step

    def interrupted(trainer, *args, **kwargs):
        if trainer.state.global_step == 3:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Seq2SeqTrainer, "training_step", interrupted)
        assert train_seq2seq.main(arguments(pairs, tmp_path / "run", ["do_train"])) == 130
    changed = arguments(pairs, tmp_path / "run", ["do_train"], learning_rate=1e-3)
    assert train_seq2seq.main(changed) == 1
    assert "training.learning_rate was 0.01, now 0.001" in capsys.readouterr().err
    for name in ("run", "straight"):
        assert train_seq2seq.main(arguments(pairs, tmp_path / name, ["do_train"])) == 0
        if name == "run":
            assert "Resuming from checkpoint-2" in capsys.readouterr().out
    ours, other = (tmp_path / name / "model" for name in ("run", "straight"))
    assert (ours / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_run_that_ended_before_it_was_saved_takes_no_further_step(pairs, tmp_path, monkeypatch):
    # Not at the end of an epoch, where there would be no further batch anyway.
    options = arguments(pairs, tmp_path / "run", ["do_train"], max_steps=4)
    with monkeypatch.context() as patch:
        patch.setattr(train_seq2seq, "save", lambda *args: (_ for _ in ()).throw(OSError("full")))
        assert train_seq2seq.main(options) == 1
    monkeypatch.setattr(Seq2SeqTrainer, "training_step", None)
    assert train_seq2seq.main(options) == 0
    record = json.loads((tmp_path / "run" / "model" / "metrics.json").read_text())
    assert record["log"][-1]["step"] == 4


@pytest.mark.parametrize(
    ("flags", "changes", "message"),
    [
        ((), {}, "nothing to do: give at least one of do_train"),
        (("do_eval",), {}, "model_name_or_path=None without do_train"),
        (("do_train",), {"target_lang": "fr"}, "target_lang='fr': the train data has"),
        (("do_train",), {"layer_type": "lstm"}, "layer_type='lstm'"),
        (("do_train",), {"vocab_size": 20}, "vocab_size=20"),
        (
            ("do_train",),
            {"model_name_or_path": "a", "hidden_size": 64},
            "hidden_size=64 is for a new model, and model_name_or_path=a has its own",
        ),
        (("do_train",), {"train_file": "none.jsonl"}, "no such file"),
    ],
)
def test_bad_input_is_one_readable_line(pairs, tmp_path, capsys, flags, changes, message):
    assert train_seq2seq.main(arguments(pairs, tmp_path / "run", flags, **changes)) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]

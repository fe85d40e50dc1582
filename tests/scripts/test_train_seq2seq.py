"""The whole way from pairs to a translation, and going on after an interruption."""

import json

import datasets
import pytest
import sacrebleu
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, Seq2SeqTrainer

from reformer_hf.training import checkpoints
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
    "config_overrides": (
        "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,feed_forward_size=16"
    ),
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


def results(folder, split="all"):
    return json.loads((folder / f"{split}_results.json").read_text())


def test_a_run_ends_with_bleu_translations_and_a_model_that_loads(pairs, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train_seq2seq.main(arguments(pairs, folder)) == 0
    found = results(folder)
    assert {"train_loss", "eval_loss", "eval_bleu", "predict_bleu"} <= found.keys()
    assert results(folder, "predict")["predict_bleu_signature"].startswith("nrefs:1|")
    sizes = [found[f"{split}_samples"] for split in ("train", "eval", "predict")]
    assert sizes == [48, 6, 6]
    assert len((folder / "generated_predictions.txt").read_text().splitlines()) == 6
    constant, copies = (
        found["references"][n] for n in ("most frequent target", "copies of the sources")
    )
    assert constant["train_samples"] == 48 and 0 <= constant["bleu"] < 100
    en, de = ([f"{w} {n}" for n in (9, 10) for w in words] for words in (WORDS, WORDS.values()))
    copied = sacrebleu.corpus_bleu(en[3:9], [de[3:9]]).score
    assert copies["bleu"] == copied and found["comparison"]["verdict"].startswith(
        f"bleu {found['eval_bleu']:.4f}"
    )
    record = json.loads((folder / "run_record.json").read_text())
    assert record["references"] == found["references"]
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == [
        "checkpoint-4",
        "checkpoint-6",
    ]

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    ids = tokenizer("file 3", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=4).shape[0] == 1

    capsys.readouterr()
    assert train_seq2seq.main(arguments(pairs, folder)) == 1
    assert "holds checkpoint-6 of another run" in capsys.readouterr().err

    # The model that was saved is evaluated, without training.
    again = arguments(
        pairs, tmp_path / "again", ["do_predict"], model_name_or_path=folder, train_file="a.jsonl"
    )
    assert train_seq2seq.main(again) == 1  # a file that is missing
    again = arguments(pairs, tmp_path / "again", ["do_predict"], model_name_or_path=folder)
    assert train_seq2seq.main(again) == 0
    metrics = results(tmp_path / "again")
    assert metrics["predict_bleu"] == found["predict_bleu"]
    assert metrics["predict_loss"] == pytest.approx(found["predict_loss"])


def test_an_interrupted_run_ends_like_another(pairs, tmp_path, capsys, monkeypatch):
    step = Seq2SeqTrainer.training_step

    def interrupted(trainer, *args, **kwargs):
        if trainer.state.global_step == 3:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    # A vocabulary that lies there from a run that got no further is not that of this one.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spiece.model").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Seq2SeqTrainer, "training_step", interrupted)
        assert train_seq2seq.main(arguments(pairs, tmp_path / "run", ["do_train"])) == 130
    changes = {"resume_from_checkpoint": "last", "max_source_length": 8}
    changed = arguments(pairs, tmp_path / "run", ["do_train"], **changes)
    assert train_seq2seq.main(changed) == 1
    assert "data.max_source_length was 16, now 8" in capsys.readouterr().err
    for name in ("run", "straight"):
        changes = {"resume_from_checkpoint": "last"}
        assert train_seq2seq.main(arguments(pairs, tmp_path / name, ["do_train"], **changes)) == 0
    for name in ("model.safetensors", "spiece.model"):
        ours, other = (tmp_path / run / name for run in ("run", "straight"))
        assert ours.read_bytes() == other.read_bytes()


def test_a_run_that_ended_before_it_was_saved_takes_no_further_step(pairs, tmp_path, monkeypatch):
    # Not at the end of an epoch, where there would be no further batch anyway.
    changes = {"max_steps": 4, "resume_from_checkpoint": "last"}
    options = arguments(pairs, tmp_path / "run", ["do_train"], **changes)
    with monkeypatch.context() as patch:
        patch.setattr(Seq2SeqTrainer, "save_state", lambda *args: (_ for _ in ()).throw(OSError))
        assert train_seq2seq.main(options) == 1
    trained = (tmp_path / "run" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "model.safetensors").unlink()
    monkeypatch.setattr(Seq2SeqTrainer, "training_step", None)
    assert train_seq2seq.main(options) == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == trained
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["log_history"][-1]["step"] == 4


def test_no_checkpoint_goes_before_the_next_is_whole(pairs, tmp_path, monkeypatch):
    seal = checkpoints.seal

    def break_at_four(path):
        if path.name == "checkpoint-4":
            raise OSError("full")
        seal(path)

    monkeypatch.setattr("reformer_hf.training.trainer.seal", break_at_four)
    options = arguments(pairs, tmp_path / "run", ["do_train"], save_total_limit=1)
    assert train_seq2seq.main(options) == 1
    assert checkpoints.is_whole(tmp_path / "run" / "checkpoint-2")


def test_tables_of_all_kinds_train_evaluate_and_predict(tmp_path, capsys):
    """With a byte-order mark, without a header, with line ends inside quoted fields."""
    rows = [(f'"{word}" {n}', f'"{wort}" {n}') for n in range(4) for word, wort in WORDS.items()]
    lines = ["\t".join(row[::-1]) for row in rows]
    (tmp_path / "a.TSV").write_text("\n".join(["de\ten", *lines]), encoding="utf-8-sig")
    (tmp_path / "b.tsv").write_text("\n".join("\t".join(row) for row in rows[:3]) + "\n")
    (tmp_path / "c.csv").write_text('en,de\r\n"one\ntwo","eins\nzwei"\r\nnull,""\r\n')
    changes = {
        "train_file": tmp_path / "a.TSV",
        "validation_file": tmp_path / "b.tsv",
        "test_file": tmp_path / "c.csv",
        "max_steps": 2,
        "baselines": False,
    }
    folder = tmp_path / "run"
    assert train_seq2seq.main(arguments(tmp_path, folder, **changes)) == 0
    found = results(folder)
    sizes = [found[f"{split}_samples"] for split in ("train", "eval", "predict")]
    assert sizes == [20, 3, 2] and "references" not in found
    assert len((folder / "generated_predictions.txt").read_text().split("\n")) == 2 + 1


def test_a_row_without_a_target_is_one_readable_line(pairs, tmp_path, capsys):
    row = {"translation": {"en": "file", "de": None}}
    with (pairs / "test.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    assert train_seq2seq.main(arguments(pairs, tmp_path / "run")) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "test.jsonl: row 7 of test: 'de' holds null" in errors[0]


@pytest.mark.parametrize(
    ("flags", "changes", "message"),
    [
        ((), {}, "nothing to do: give --do_train"),
        (("do_eval",), {}, "model_name_or_path=None without do_train"),
        (("do_train",), {"target_lang": "fr"}, "target_lang='fr': the train data has"),
        (("do_train",), {"config_overrides": "encoder_attn_layers=[lstm]"}, "lstm"),
        (("do_train",), {"vocab_size": 20}, "vocab_size=20: 259 pieces are bytes"),
        (("do_train",), {"generation_max_length": 1}, "generation_max_length=1"),
        (
            ("do_train",),
            {"model_name_or_path": "a", "config_overrides": "hidden_size=64"},
            "config_overrides='hidden_size=64' with model_name_or_path",
        ),
        (("do_train",), {"train_file": "none.jsonl"}, "none.jsonl: there is no such file"),
    ],
)
def test_bad_input_is_one_readable_line(pairs, tmp_path, capsys, flags, changes, message):
    assert train_seq2seq.main(arguments(pairs, tmp_path / "run", flags, **changes)) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]

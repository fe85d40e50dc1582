"""Whole runs of train_classification.py on a few tiny rows."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from reformer_hf import ReformerHFByteTokenizer, ReformerHFForSequenceClassification
from reformer_hf.training import checkpoints
from scripts.train_classification import main
from tests.models.tiny import tiny_config, tiny_lm
from tests.training.runs import tiny_overrides

WORDS = ["cat", "dog"]


def texts(count: int = 24) -> list[dict]:
    """Which animal is in the text; the other columns follow from it."""
    rows = []
    for number in range(count):
        word = WORDS[number % 2]
        rows.append(
            {
                "text": f"{'x' * (number % 5)} {word * 3}",
                "label": word,
                "labels": [word] if number % 3 else ["third", word],
                "size": number % 2 + 0.5,
                # Of different lengths, so that batches are padded.
                "tokens": ["a", word, *["b"] * (1 + number % 3)],
                "ner_tags": ["O", f"B-{word}", *["O"] * (1 + number % 3)],
            }
        )
    return rows


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run_in(root: Path, *options: str, steps: int = 40, new: bool = True) -> Path:
    """Run the script on the rows; returns its output folder."""
    rows = write(root / "rows.jsonl", texts())
    test = write(root / "test.jsonl", texts(6))
    arguments = ["--train_file", rows, "--validation_file", test, "--test_file", test]
    arguments += ["--output_dir", str(root / "out"), "--cache_dir", str(root / "cache")]
    arguments += ["--do_train", "--do_eval", "--do_predict", "--max_steps", str(steps)]
    arguments += ["--learning_rate", "0.01", "--report_to", "none", "--disable_tqdm", "True"]
    arguments += ["--per_device_eval_batch_size", "4", "--use_cpu"]
    if new:
        arguments += ["--config_overrides", tiny_overrides(), "--max_seq_length", "64"]
    assert main([*arguments, *options]) == 0
    return root / "out"


@pytest.fixture
def run(tmp_path):
    return partial(run_in, tmp_path)


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory):
    """What a run on classes of texts leaves; tests read it only."""
    return run_in(tmp_path_factory.mktemp("classes"), "--label_column_name", "label")


@pytest.fixture(scope="module")
def of_words(tmp_path_factory):
    """What a run on labels of words leaves; tests read it only."""
    return run_in(tmp_path_factory.mktemp("words"), "--task_name", "token")


def results(folder: Path) -> tuple[dict, list]:
    metrics = json.loads((folder / "eval_results.json").read_text())
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return metrics, [json.loads(line) for line in lines]


def test_classes_of_texts(of_classes):
    folder = of_classes
    metrics, found = results(folder)
    assert metrics["eval_accuracy"] == metrics["eval_f1_macro"] == 1
    assert found == ["cat", "dog"] * 3
    classify = pipeline("text-classification", model=str(folder))
    assert classify("xx dogdogdog")[0]["label"] == "dog"
    results_file, record = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("all_results", "run_record")
    )
    majority, bayes = (
        results_file["references"][n] for n in ("majority class", "naive Bayes on byte pairs")
    )
    assert majority == {"accuracy": 0.5, "f1_macro": pytest.approx(1 / 3)}
    assert (bayes["accuracy"], bayes["train_samples"]) == (1, 24)
    verdict = "accuracy 1.0000 is not better than 1.0000, naive Bayes on byte pairs: counting does "
    for kept in (results_file, record):
        assert kept["references"] == results_file["references"]
        assert kept["comparison"]["verdict"].startswith(verdict)
    card = (folder / "README.md").read_text()
    assert "| metric | this model | majority class | naive Bayes on byte pairs |" in card
    assert "| accuracy | 1.0000 | 0.5000 | 1.0000 |" in card and verdict in card
    assert "cat,1.0,1.0,1.0,3" in (folder / "class_scores.csv").read_text()
    assert "cat,3,0" in (folder / "confusion_matrix.csv").read_text()


def test_an_interrupted_run_goes_on(run):
    options = ["--save_steps", "3", "--lr_scheduler_type", "constant"]
    assert "references" in json.loads((run(*options, steps=3) / "eval_results.json").read_text())
    options += ["--baselines", "False"]
    folder = run(*options, "--resume_from_checkpoint", "last", steps=6)
    assert "references" not in json.loads((folder / "eval_results.json").read_text())
    assert "references" not in json.loads((folder / "run_record.json").read_text())
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == 6 and (folder / "checkpoint-6" / "seal.json").exists()


def test_a_run_goes_on_with_its_own_data_and_model_only(run, tmp_path, capsys):
    options = ["--save_steps", "1", "--resume_from_checkpoint", "last"]
    run(*options, "--max_minutes", "1e-6")  # which stops it after a step
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {"checkpoint-1"}
    for changed, message in (
        (
            ["--config_overrides", tiny_overrides(conv_kernel=3)],
            "model.config_overrides.conv_kernel was 2, now 3",
        ),
        (["--max_seq_length", "32"], "data.max_seq_length was 64, now 32"),
        (["--seed", "5"], "seed was 42, now 5"),
    ):
        with pytest.raises(AssertionError):
            run(*options, *changed)
        assert message in capsys.readouterr().err
    in_two = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    run(*options, *in_two, steps=2)


def test_no_checkpoint_goes_before_the_next_is_whole(run, tmp_path, monkeypatch):
    def break_at_four(path):
        if path.name == "checkpoint-4":
            raise OSError("full")
        checkpoints.seal(path)

    monkeypatch.setattr("reformer_hf.training.trainer.seal", break_at_four)
    with pytest.raises(AssertionError):
        run("--save_steps", "2", "--save_total_limit", "1", steps=4)
    assert checkpoints.is_whole(tmp_path / "out" / "checkpoint-2")


def test_several_classes_at_a_time(run):
    metrics, found = results(run("--label_column_name", "labels"))
    assert metrics["eval_f1_micro"] > 0.7
    assert all("cat" in labels or "dog" in labels for labels in found)
    assert metrics["references"].keys() == {"majority of each label", "naive Bayes on byte pairs"}


def test_numbers(run):
    metrics, found = results(run("--label_column_name", "size", steps=80))
    assert metrics["eval_mse"] < 0.1
    assert found == pytest.approx([0.5, 1.5] * 3, abs=0.6)
    assert metrics["references"] == {"mean": {"mse": 0.25, "mae": 0.5}}


def test_words(of_words):
    folder = of_words
    metrics, found = results(folder)
    assert metrics["eval_entity_f1"] == metrics["eval_accuracy"] == 1
    assert found == [row["ner_tags"] for row in texts(6)]
    by_word = metrics["references"]["most frequent label of each word"]
    assert (
        by_word["entity_f1"] == 1
        and "entity_f1 1.0000 is not better" in metrics["comparison"]["verdict"]
    )
    tag = pipeline("token-classification", model=str(folder))
    assert any(entity["entity"] == "B-dog" for entity in tag("a dog b"))


def test_words_without_tokens_have_no_prediction(of_words, tmp_path):
    rows = [
        {"tokens": ["", "cat", "", "b"], "ner_tags": ["O", "B-cat", "O", "O"]},
        {"tokens": ["dog", *["b"] * 40], "ner_tags": ["B-dog", *["O"] * 40]},
    ]
    test = write(tmp_path / "odd.jsonl", rows)
    arguments = ["--model_name_or_path", str(of_words), "--test_file", test, "--do_predict"]
    arguments += ["--task_name", "token", "--max_seq_length", "32"]  # and no other data
    arguments += ["--output_dir", str(tmp_path / "odd"), "--use_cpu", "--report_to", "none"]
    assert main([*arguments, "--cache_dir", str(tmp_path / "cache")]) == 0
    lines = (tmp_path / "odd" / "predictions.jsonl").read_text().splitlines()
    first, cut = map(json.loads, lines)
    assert len(first) == 4 and first[:2] == [None, "B-cat"] and None not in first[1:]
    assert cut[:2] == ["B-dog", "O"] and len(cut) == 41 and cut[16:] == [None] * 25


@pytest.mark.parametrize(
    ("labels", "expected"), [(["dog", "cat"], 0), ([2, 0], 0), (["dog", "bird"], 1), ([0, 3], 1)]
)
def test_a_classifier_of_three_classes_with_data_of_two(tmp_path, capsys, labels, expected):
    names = {0: "cat", 1: "cow", 2: "dog"}
    config = tiny_config(vocab_size=258, id2label=names, label2id={n: i for i, n in names.items()})
    ReformerHFForSequenceClassification(config).save_pretrained(tmp_path / "three")
    ReformerHFByteTokenizer().save_pretrained(tmp_path / "three")
    rows = write(tmp_path / "two.jsonl", [{"text": "a", "label": label} for label in labels * 4])
    arguments = ["--model_name_or_path", str(tmp_path / "three"), "--train_file", rows]
    arguments += ["--do_train", "--max_steps", "1", "--validation_file", rows, "--do_eval"]
    arguments += ["--output_dir", str(tmp_path / "out"), "--use_cpu", "--report_to", "none"]
    assert main([*arguments, "--cache_dir", str(tmp_path / "cache")]) == expected
    if expected == 0:
        trained = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
        assert trained.config.id2label == names
    else:
        assert "and the trained model cat, cow, dog: rename the labels" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"text,label\ncaf\xe9,a\n", b"text;label\na;b\n"])
def test_a_table_that_cannot_be_read_is_one_line(tmp_path, capsys, content):
    (tmp_path / "a.csv").write_bytes(content)
    arguments = ["--train_file", str(tmp_path / "a.csv"), "--do_train", "--use_cpu"]
    arguments += ["--output_dir", str(tmp_path / "out"), "--report_to", "none"]
    assert main([*arguments, "--cache_dir", str(tmp_path / "cache")]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and ("byte 14 (0xe9" in error[0] or "semicolons" in error[0])


def test_from_a_causal_checkpoint_and_without_training_data(run, tmp_path):
    tiny_lm(vocab_size=258).save_pretrained(tmp_path / "causal")
    ReformerHFByteTokenizer().save_pretrained(tmp_path / "causal")
    folder = run("--model_name_or_path", str(tmp_path / "causal"), steps=2, new=False)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.is_decoder is True and model.config.id2label == {0: "cat", 1: "dog"}
    before = json.loads((folder / "eval_results.json").read_text())
    again = ["--model_name_or_path", str(folder), "--do_eval", "--report_to", "none", "--use_cpu"]
    again += ["--validation_file", str(tmp_path / "test.jsonl"), "--output_dir", str(folder)]
    assert main([*again, "--cache_dir", str(tmp_path / "cache"), "--disable_tqdm", "True"]) == 0
    after = json.loads((folder / "eval_results.json").read_text())
    assert after["eval_loss"] == pytest.approx(before["eval_loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train_file", "none.csv", "--do_train"], "none.csv: there is no such file"),
        (["--do_train"], "all missing"),
        (["--train_file", "none.csv"], "nothing to do"),
        (["--train_file", "rows.jsonl", "--do_predict"], "there is no test data; name a test_file"),
        (["--validation_file", "rows.jsonl", "--do_eval"], "name a trained model"),
        (
            ["--train_file", "rows.jsonl", "--do_train", "--max_seq_length", "64"]
            + ["--config_overrides", "position_embedding_type=learned,max_position_embeddings=32"],
            "max_seq_length=64: the model has 32 positions",
        ),
        (
            ["--train_file", "rows.jsonl", "--do_train", "--label_column_name", "size"]
            + ["--label_smoothing_factor", "0.1"],
            "label_smoothing_factor=0.1: is for one class per row or word, and the labels are num",
        ),
        (
            ["--train_file", "rows.jsonl", "--do_train", "--label_column_name", "labels"]
            + ["--label_smoothing_factor", "0.1"],
            "the labels are several at a time; leave it out",
        ),
    ],
)
def test_errors_are_messages(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", texts())
    options = [*options, "--use_cpu", "--report_to", "none", "--cache_dir", str(tmp_path / "cache")]
    assert main([*options, "--output_dir", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


def test_a_model_that_numbers_the_labels_otherwise_is_read_rightly(of_classes, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(of_classes)
    head = model.classifier.out_proj
    with torch.no_grad():
        for parameter in (head.weight, head.bias):
            parameter.copy_(parameter.flip(0))
    model.config.id2label, model.config.label2id = {0: "dog", 1: "cat"}, {"dog": 0, "cat": 1}
    model.save_pretrained(tmp_path / "swapped")
    ReformerHFByteTokenizer().save_pretrained(tmp_path / "swapped")
    rows = write(tmp_path / "more.jsonl", texts())
    arguments = ["--model_name_or_path", str(tmp_path / "swapped"), "--train_file", rows]
    arguments += ["--validation_file", rows, "--label_column_name", "label", "--do_eval"]
    arguments += ["--output_dir", str(tmp_path / "again"), "--use_cpu", "--report_to", "none"]
    assert main([*arguments, "--cache_dir", str(tmp_path / "cache")]) == 0
    assert json.loads((tmp_path / "again" / "eval_results.json").read_text())["eval_accuracy"] == 1


def test_classes_that_are_only_held_out_are_known_and_a_test_file_is_enough(tmp_path):
    rows = [{"text": f"text {n}", "label": f"class {n}"} for n in range(10)]
    data = write(tmp_path / "classes.jsonl", rows)
    folder, options = tmp_path / "out", ["--use_cpu", "--report_to", "none"]
    options += ["--cache_dir", str(tmp_path / "cache"), "--output_dir", str(folder)]
    train = ["--train_file", data, "--do_train", "--do_eval", "--max_steps", "1"]
    assert main([*options, *train, "--config_overrides", tiny_overrides()]) == 0
    assert len(json.loads((folder / "config.json").read_text())["id2label"]) == 10
    predict = ["--model_name_or_path", str(folder), "--test_file", data, "--do_predict"]
    assert main([*options, *predict]) == 0
    predicted = (folder / "predictions.jsonl").read_text().splitlines()
    assert len(predicted) == 10 and {json.loads(n) for n in predicted} <= {
        row["label"] for row in rows
    }

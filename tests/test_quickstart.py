import contextlib
import io
import json
import re
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub import ModelCard

from reformer_hf import quickstart
from reformer_hf.training.data.text import find_files
from tests import processes
from tests.training.runs import tiny_overrides


def write_texts(folder):
    folder.mkdir()
    for index in range(30):
        text = "".join(f"file {index} says line {line}: é\n" for line in range(100))
        (folder / f"{index}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def texts(tmp_path):
    return write_texts(tmp_path / "texts")


def arguments(texts, output, **changes):
    values = {
        "corpus": texts,
        "output_dir": output,
        "config_overrides": tiny_overrides(),
        "use_cpu": True,
        "block_size": 512,
        "max_steps": 8,
        "warmup_steps": 2,
        "logging_steps": 1,
        "eval_steps": 4,
        "save_steps": 2,
        "max_eval_samples": 4,
        "max_new_tokens": 8,
    } | changes
    length = values["block_size"]
    values |= {"row_lengths": [length // 4, length], "tokens_per_step": [length]}
    lists = {n: v if isinstance(v, list) else [v] for n, v in values.items()}
    return [part for n, some in lists.items() for part in (f"--{n}", *map(str, some))]


class FinishedRun(NamedTuple):
    arguments: dict
    folder: Path
    printed: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its arguments, its model folder and what it printed."""
    root = tmp_path_factory.mktemp("finished")
    values = {"texts": write_texts(root / "texts"), "output": root / "run"}
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        assert quickstart.main(arguments(**values)) == 0
    return FinishedRun(values, root / "run", stream.getvalue())


def test_a_run_ends_with_a_model_a_card_a_curve_and_a_sample(finished):
    _, folder, printed = finished
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "README.md",
        "metrics.json",
        "loss_curve.csv",
        "loss_curve.png",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    held_out = metrics["held_out"]
    for name, key in (
        ("this model", "bits_per_byte"),
        ("gzip -9", "gzip_9_bits_per_byte"),
        ("bz2 -9", "bz2_9_bits_per_byte"),
        ("uniform", "uniform_bits_per_byte"),
        ("byte pairs", "byte_pairs_bits_per_byte"),
        ("5-gram", "5gram_bits_per_byte"),
    ):
        assert re.search(rf"{name} +{held_out[key]:.3f}\n", printed)
    assert held_out["windows"] == 4 and held_out["context"] == 512
    assert 0 < held_out["bits_per_byte"] < 10
    assert metrics["training"]["steps"] == 8
    assert metrics["training"]["tokens"] == 8 * 512
    assert metrics["corpus"]["description"] == "the files in texts"
    assert "settings" not in metrics  # which is uploaded; they may name folders of this machine
    prompt, sample = re.search(
        r"--- prompt \(held-out text\) ---\n(.*)\n--- the model goes on ---\n(.*)\n---\n",
        printed,
        re.DOTALL,
    ).groups()
    assert " says line " in prompt and sample


def test_a_finished_run_is_left_as_it_is(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    assert quickstart.main(arguments(**finished.arguments)) == 0
    printed = capsys.readouterr().out
    assert "This run is finished" in printed and "choose another --output_dir" in printed

    # With other settings it is another run, which must not pass for this one.
    assert quickstart.main(arguments(**finished.arguments | {"seed": 5})) == 1
    assert "seed was 0, now 5" in capsys.readouterr().err
    # Nor where its checkpoints are gone.
    for folder in finished.folder.glob("checkpoint-*"):
        folder.rename(folder.with_name(f"moved-{folder.name}"))
    assert quickstart.main(arguments(**finished.arguments | {"seed": 5})) == 1
    for folder in finished.folder.glob("moved-*"):
        folder.rename(folder.with_name(folder.name.removeprefix("moved-")))
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before


def test_the_card_is_valid_and_its_snippet_runs(finished, tmp_path):
    folder = finished.folder
    card = ModelCard.load(folder / "README.md")
    metrics = json.loads((folder / "metrics.json").read_text())
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found["bits_per_byte"] == pytest.approx(metrics["held_out"]["bits_per_byte"], abs=1e-4)
    (snippet,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert snippet.startswith("import reformer_hf")
    (tmp_path / "snippet.py").write_text(f"import os\nos.chdir({str(folder)!r})\n{snippet}")
    assert processes.run(1, tmp_path / "snippet.py").strip()


def kill_after(checkpoint, texts, output, **changes):
    """Start a run as a process of its own and kill it once it has that checkpoint."""
    log = output.with_suffix(".log")
    process = processes.start(quickstart.__file__, *arguments(texts, output, **changes), log=log)
    deadline = time.monotonic() + 600
    while not (output / checkpoint / "seal.json").exists():
        assert process.exitcode is None, log.read_text()
        assert time.monotonic() < deadline, f"no {checkpoint} in ten minutes"
        time.sleep(0.005)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_run_goes_on_and_ends_like_another(texts, tmp_path, capsys):
    run, straight = tmp_path / "run", tmp_path / "straight"
    # Small steps and many, so that the kill comes long before the end.
    options = {"max_steps": 24, "eval_steps": 100, "block_size": 256}
    kill_after("checkpoint-4", texts, run, **options)
    assert not (run / "metrics.json").exists()
    # What a power failure may leave of the last checkpoint.
    steps = [int(path.name.split("-")[1]) for path in run.glob("checkpoint-*")]
    cut = run / f"checkpoint-{max(steps)}"
    weights = cut / "model.safetensors"
    if weights.exists():
        weights.write_bytes(weights.read_bytes()[:-10])

    assert quickstart.main(arguments(texts, run, **options)) == 0
    printed = capsys.readouterr().out
    assert f"Skipping {cut.name}: it was cut while it was saved" in printed
    assert re.search(r"Resuming from checkpoint-\d+", printed)
    assert quickstart.main(arguments(texts, straight, **options)) == 0
    ours, other = (folder / "model.safetensors" for folder in (run, straight))
    assert ours.read_bytes() == other.read_bytes()


def test_an_interrupt_says_how_to_go_on(texts, tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(quickstart, "check_reload", interrupt)
        assert quickstart.main(arguments(texts, tmp_path / "run")) == 130
    assert "Interrupted; --resume_from_checkpoint last goes on" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert quickstart.main(arguments(texts, tmp_path / "run")) == 0
    assert "Resuming from checkpoint-8" in capsys.readouterr().out


def test_a_changed_corpus_is_refused(texts, tmp_path, capsys):
    options = {"max_minutes": 1e-6}
    assert quickstart.main(arguments(texts, tmp_path / "run", **options)) == 0
    assert "Stopped at step 1 of 8" in capsys.readouterr().out
    (texts / "0.txt").write_text("changed")
    assert quickstart.main(arguments(texts, tmp_path / "run", **options)) == 1
    assert "data.train_file was" in capsys.readouterr().err


def test_a_full_disk_at_the_end_costs_no_training(texts, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"

    def no_space(*args, **kwargs):
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer.save_state", no_space)
        assert quickstart.main(arguments(texts, run)) == 1
    captured = capsys.readouterr()
    assert "disk is full" in captured.err and "training need not be repeated" in captured.err
    assert not (run / "metrics.json").exists()

    monkeypatch.setattr("transformers.Trainer.training_step", None)
    assert quickstart.main(arguments(texts, run)) == 0
    assert "Resuming from checkpoint-8" in capsys.readouterr().out
    assert (run / "README.md").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"corpus": "no/such/dataset"}, "could not be loaded from no/such/dataset"),
        ({"block_size": 100_000}, "are one row of block_size=100000"),
        ({"max_minutes": 0}, "max_minutes=0.0: must be above 0"),
        ({"max_new_tokens": 512}, "max_new_tokens=512: prompt and sample must fit"),
        ({"do_train": False}, "do_train=False, do_eval=True: the quickstart does both"),
    ],
)
def test_bad_input_is_one_readable_line(texts, tmp_path, capsys, monkeypatch, changes, message):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert quickstart.main(arguments(texts, tmp_path / "run", **changes)) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_help_names_the_arguments(capsys):
    with pytest.raises(SystemExit, match="0"):
        quickstart.main(["--help"])
    printed = capsys.readouterr().out
    for name in ("corpus", "max_minutes", "output_dir", "block_size", "learning_rate"):
        assert f"--{name}" in printed


def test_the_default_text_is_the_standard_library():
    names = {path.name: path for path in find_files("corpus", quickstart.STANDARD_LIBRARY)}
    assert {"argparse.py", "decoder.py"} <= names.keys()
    assert not any("site-packages" in path.parts for path in names.values())
    _, _, data, training = quickstart.parse(["--use_cpu", "True"])
    assert (data.train_file, data.data_format) == (quickstart.STANDARD_LIBRARY, "bytes")
    assert (training.max_minutes, training.resume_from_checkpoint) == (5.5, "last")


def test_a_name_that_is_not_here_is_a_dataset():
    _, _, data, _ = quickstart.parse(["--corpus", "some/dataset", "--use_cpu", "True"])
    assert (data.train_file, data.dataset_name, data.data_format) == (None, "some/dataset", "text")


def test_a_run_that_the_clock_stopped_goes_on_with_more_time(texts, tmp_path, capsys):
    folder = tmp_path / "run"
    for _ in range(2):
        assert quickstart.main(arguments(texts, folder, max_minutes=1e-6)) == 0
    printed = capsys.readouterr().out
    assert "This run was stopped by the clock at step 1, and more --max_minutes let it" in printed
    assert "is finished" not in printed
    assert quickstart.main(arguments(texts, folder, max_minutes=9)) == 0
    assert "Resuming from checkpoint-1" in capsys.readouterr().out
    assert json.loads((folder / "metrics.json").read_text())["training"]["steps"] == 8
    assert quickstart.main(arguments(texts, folder, max_minutes=9)) == 0
    assert "This run is finished" in capsys.readouterr().out


def test_two_corpora_are_refused(texts, tmp_path, capsys):
    assert quickstart.main(arguments(texts, tmp_path / "run", train_file="a.txt")) == 1
    assert "train_file='a.txt': give one" in capsys.readouterr().err

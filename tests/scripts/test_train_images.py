"""The whole way from a folder of digits to samples, and going on after an interruption."""

import json
import re

import datasets
import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from sklearn.datasets import load_digits
from transformers import Trainer

from scripts import train_images
from tests.hub.conftest import TOKEN, hub, waits  # noqa: F401 (fixtures)
from tests.hub.fake_validation import metadata_errors
from tests.training.image_files import claimed_png

SAVED = {
    "model.safetensors",
    "config.json",
    "README.md",
    "run_record.json",
    "loss_curve.csv",
    "loss_curve.png",
    "samples.png",
    "completions.png",
}


@pytest.fixture
def digits(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "digits").mkdir()
    for index, image in enumerate(load_digits().images[:300]):
        Image.fromarray((image * 15).astype(np.uint8)).save(tmp_path / "digits" / f"{index}.png")
    return tmp_path / "digits"


def arguments(digits, output, **changes):
    values = {
        "train_dir": digits,
        "image_size": 8,
        "image_mode": "L",
        "output_dir": output,
        "config_overrides": "hidden_size=24,attn_layers=[local,lsh],feed_forward_size=32,"
        "local_attn_chunk_length=8,lsh_attn_chunk_length=8",
        "max_steps": 30,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "logging_steps": 5,
        "eval_steps": 10,
        "save_steps": 10,
        "max_eval_samples": 8,
        "num_samples": 3,
    } | changes
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def test_a_run_ends_with_bits_per_dim_samples_and_completions(
    digits, tmp_path, capsys, monkeypatch
):
    assert train_images.main(arguments(digits, tmp_path / "run")) == 0
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} >= SAVED
    results = json.loads((folder / "all_results.json").read_text())
    assert "eval_bits_per_dim" in capsys.readouterr().out
    bits = {name: scores["bits_per_dim"] for name, scores in results["references"].items()}
    assert 1 < results["eval_bits_per_dim"] < 5 < bits["uniform"] == 8
    # Counts are of other images, and neighbours tell something.
    assert 1 < bits["bytes after the left one"] < bits["bytes"] < 5 < bits["PNG"]
    assert results["comparison"]["verdict"].startswith(
        f"bits_per_dim {results['eval_bits_per_dim']:.4f} is "
    )
    assert (results["eval_images"], results["eval_dims"]) == (8, 64)
    assert results["train_tokens"] == 30 * 16 * 64 and not results["train_stopped_by_the_clock"]
    record = json.loads((folder / "run_record.json").read_text())
    assert record["data"]["description"] == "the images in digits"
    assert record["evaluation"]["bits_per_dim"] == results["eval_bits_per_dim"]
    assert record["references"] == results["references"]
    with Image.open(folder / "samples.png") as samples:
        assert (samples.size, samples.mode) == ((24, 8), "L")
    with Image.open(folder / "completions.png") as picture:
        originals, given, completed = np.asarray(picture).reshape(3, 8, 24)
    assert (given[:4] == originals[:4]).all() and (given[4:] == 0).all()
    assert (completed[:4] == originals[:4]).all() and (completed[4:] != originals[4:]).any()

    card = ModelCard.load(folder / "README.md")
    assert metadata_errors(card.content) == []
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert "on the images in digits with" in card.content.replace("\n", " ")
    assert "Images beyond 64 tokens" in card.content
    snippet, *_ = re.findall(r"```python\n(.*?)```", card.content, re.DOTALL)
    monkeypatch.chdir(folder)
    exec(snippet, {})
    with Image.open("image.png") as drawn:
        assert (drawn.size, drawn.mode) == ((8, 8), "L")

    assert train_images.main(arguments(digits, folder)) == 1
    assert "holds checkpoint-30 of another run" in capsys.readouterr().err


def test_an_interrupted_run_ends_like_another(digits, tmp_path, monkeypatch):
    step = Trainer.training_step

    def interrupted(trainer, *args, **kwargs):
        if trainer.state.global_step == 13:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", interrupted)
        assert train_images.main(arguments(digits, tmp_path / "run", max_steps=20)) == 130
    (digits / "0.png").unlink()  # what was read at the start stays
    for name in ("run", "straight"):
        changes = {"max_steps": 20, "resume_from_checkpoint": "last"}
        assert train_images.main(arguments(digits, tmp_path / name, **changes)) == 0
        if name == "run":
            Image.fromarray((load_digits().images[0] * 15).astype(np.uint8)).save(digits / "0.png")
    ours, other = (tmp_path / name for name in ("run", "straight"))
    for name in ("model.safetensors", "samples.png", "completions.png"):
        assert (ours / name).read_bytes() == (other / name).read_bytes()


def test_a_run_whose_time_is_up_takes_no_further_step(digits, tmp_path, monkeypatch):
    changes = {"max_minutes": 1e-6, "resume_from_checkpoint": "last", "baselines": False}
    options = arguments(digits, tmp_path / "run", **changes)
    assert train_images.main(options) == 0
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["train_tokens"] == 16 * 64 and results["train_stopped_by_the_clock"]
    assert "references" not in results
    trained = (tmp_path / "run" / "model.safetensors").read_bytes()
    monkeypatch.setattr(Trainer, "training_step", None)
    assert train_images.main(options) == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == trained


def test_the_hub_gets_the_samples_and_not_the_images_trained_on(digits, hub, tmp_path):  # noqa: F811
    changes = {"hub_model_id": "a-run", "hub_token": TOKEN, "max_steps": 5}
    options = arguments(digits, tmp_path / "run", **changes)
    assert train_images.main([*options, "--push_to_hub"]) == 0
    sent = hub.repositories["ada/a-run"].at("main").files
    assert {"model.safetensors", "samples.png", "README.md"} <= sent.keys()
    names = {path.rpartition("/")[2] for path in sent}
    assert not names & {"train.bin", "held_out.bin", "images.json"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_dir": "no/such/folder"}, "train_dir='no/such/folder': no such folder"),
        ({"image_mode": "P"}, "image_mode='P'"),
        ({"train_val_split": 1e-9}, "none of its 300 images is in the held_out part"),
        ({"config_overrides": "vocab_size=9"}, "the images decide 'vocab_size'"),
    ],
)
def test_bad_input_is_one_readable_line(digits, tmp_path, capsys, changes, message):
    assert train_images.main(arguments(digits, tmp_path / "run", **changes)) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]


def test_a_picture_of_400_megapixels_is_one_readable_line(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "huge.png").write_bytes(claimed_png(20_000, 20_000))
    assert train_images.main(arguments(tmp_path / "photos", tmp_path / "run")) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "huge.png: " in errors[0] and "Scale it down" in errors[0]

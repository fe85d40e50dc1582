"""`--dry_run` of every training script: an estimate, and nothing written."""

import json

import numpy as np
import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image

from reformer_hf import quickstart
from scripts import (
    train_classification,
    train_clm,
    train_clm_no_trainer,
    train_images,
    train_mlm,
    train_seq2seq,
)
from tests.training.runs import tiny_overrides

SMALL = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,feed_forward_size=16"
TEXT = {"config_overrides": tiny_overrides(), "block_size": 64}
GROWING = {"row_lengths": 64, "tokens_per_step": 64}


def data(folder):
    """Files for all of them."""
    rows = [
        {
            "text": f"row {n} says {'ab' * n}",
            "label": "ab"[n % 2],
            "translation": {"en": f"one {n}", "de": f"eins {n}"},
        }
        for n in range(40)
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "images").mkdir()
    for n in range(10):
        pixels = np.full((4, 4), n, np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{n}.png")
    return file


def steps(count):
    return {"max_steps": count, "do_train": True, "do_eval": True}


@pytest.fixture(autouse=True)
def fresh_accelerate(monkeypatch):
    """accelerate's states are shared by the whole process: leave none behind."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    yield
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


@pytest.mark.parametrize(
    ("script", "values", "evaluations"),
    [
        (train_clm, TEXT | steps(20) | {"max_minutes": 1000, "text_column_name": "text"}, 1),
        (train_mlm, TEXT | steps(20) | {"text_column_name": "text"}, 1),
        (
            train_classification,
            {"config_overrides": tiny_overrides(), "max_seq_length": 64, **steps(20)},
            1,
        ),
        (
            train_seq2seq,
            {
                **{"source_lang": "en", "target_lang": "de", "config_overrides": SMALL},
                **{"vocab_size": 310, "max_source_length": 16, "max_target_length": 16},
                **{"predict_with_generate": True, **steps(20)},
            },
            1,
        ),
        (
            train_images,
            {"config_overrides": SMALL, "image_mode": "L", "max_steps": 20, "eval_steps": 10},
            2,
        ),
        (train_clm_no_trainer, TEXT | {"max_train_steps": 20, "checkpointing_steps": "5"}, None),
        (quickstart, TEXT | GROWING | {"max_steps": 20, "max_new_tokens": 8, "eval_steps": 10}, 3),
    ],
)
def test_it_estimates_and_writes_nothing(script, values, evaluations, tmp_path, capsys):
    file, output = data(tmp_path), tmp_path / "run"
    source = {"train_dir": tmp_path / "images"} if script is train_images else {"train_file": file}
    values = {**source, "output_dir": output, "dry_run": True, **values}
    if script is train_seq2seq:  # which holds nothing out
        values["validation_file"] = file
    if script is not train_images:
        values["cache_dir"] = tmp_path / "cache"
    if script is not train_clm_no_trainer:
        values |= {"use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-3}
    arguments = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    assert script.main(arguments) == 0
    printed = capsys.readouterr()
    assert "Dry run: nothing is kept" in printed.out and " 20 steps " in printed.out
    assert "peak memory" in printed.out and "optimizer" in printed.out
    assert evaluations is None or f"evaluations ({evaluations})" in printed.out
    assert not output.exists()
    if script is train_clm_no_trainer:
        assert "checkpoints (4)" in printed.out

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerState, set_seed

from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training import finish
from reformer_hf.training.data import CorpusRecord
from reformer_hf.training.evaluation import HeldOutScore
from reformer_hf.training.finish import (
    collect_metrics,
    save_and_reload,
    write_reports,
    write_sample,
)

TOKENIZER = ReformerHFByteTokenizer()
PROBE = torch.arange(2, 102)[None]


def test_what_is_saved_loads_with_equal_logits(tiny_model, tmp_path):
    tiny_model.train()
    save_and_reload(tmp_path, tiny_model, TOKENIZER, PROBE)
    assert tiny_model.training
    assert (tmp_path / "model.safetensors").exists()


def test_a_model_that_loads_differently_is_found(tiny_model, tmp_path, monkeypatch):
    def load_altered(*args, **kwargs):
        model = AutoModelForCausalLM.from_pretrained(*args, **kwargs)
        with torch.no_grad():
            model.lm_head.bias += 1e-3
        return model

    fake = type("Auto", (), {"from_pretrained": staticmethod(load_altered)})
    monkeypatch.setattr(finish, "AutoModelForCausalLM", fake)
    with pytest.raises(RuntimeError, match="logits differ by up to 0.00"):
        save_and_reload(tmp_path, tiny_model, TOKENIZER, PROBE)


def test_a_tokenizer_that_loads_differently_is_found(tiny_model, tmp_path, monkeypatch):
    fake = type(
        "Auto", (), {"from_pretrained": staticmethod(lambda _: lambda text: TOKENIZER("x"))}
    )
    monkeypatch.setattr(finish, "AutoTokenizer", fake)
    with pytest.raises(RuntimeError, match="tokenizer gives other ids"):
        save_and_reload(tmp_path, tiny_model, TOKENIZER, PROBE)


def test_metrics_and_reports(tiny_model, tmp_path):
    state = TrainerState(global_step=8, max_steps=10)
    state.log_history = [{"loss": math.log(2), "step": 8, "seconds": 5.0, "step_seconds": 4.0}]
    score = HeldOutScore(2.5, 1.5, 1.25, 8.0, 1000, 8, 128)
    record = CorpusRecord("some text", "ab", 10, "by name", 20, 3000, 18, 2700, 2, 300)
    settings = {"model": {"hidden_size": 16}}
    metrics = collect_metrics(tiny_model, state, score, record, settings, tokens_per_step=256)
    write_reports(tmp_path, state, metrics, score.references(), "title")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["held_out"]["bits_per_byte"] == 2.5
    training = metrics["training"]
    assert training.pop("peak_memory_bytes") > 50e6  # torch alone takes more
    assert training == {
        "steps": 8,
        "stopped_by_the_clock": True,
        "tokens": 2048,
        "seconds": 5.0,
        "step_seconds": 4.0,
        "tokens_per_second": 512.0,
    }
    assert metrics["parameters"] == sum(p.numel() for p in tiny_model.parameters())
    assert metrics["corpus"]["sha256"] == "ab"
    assert metrics["settings"] == settings
    assert metrics["machine"]["versions"]["torch"] == torch.__version__
    assert {"loss_curve.csv", "loss_curve.png"} <= {path.name for path in tmp_path.iterdir()}


def test_a_sample_is_as_long_as_asked_and_repeatable(tiny_model, tmp_path):
    save_and_reload(tmp_path, tiny_model, TOKENIZER, PROBE)
    samples = []
    for seed in (0, 0, 1):
        set_seed(seed)
        samples.append(write_sample(tmp_path, "a prompt of some bytes", max_new_tokens=20))
    assert samples[0] == samples[1] != samples[2]
    assert 0 < len(samples[0]) <= 20

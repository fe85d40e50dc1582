"""The end of a run: its metrics, its model folder, and the proof that the folder loads."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerState,
    pipeline,
)

from reformer_hf.training.callbacks import recorded_seconds
from reformer_hf.training.machine import machine_record, peak_memory_bytes
from reformer_hf.training.plots import plot_loss_curve, write_loss_curve_csv
from reformer_hf.training.storage import write_json


def collect_metrics(
    model: PreTrainedModel,
    state: TrainerState,
    score: Any,
    corpus: Any,
    settings: Mapping,
    tokens_per_step: int,
) -> dict:
    """Gather what a reader needs to judge and to repeat a run, as JSON values.

    Args:
        model: that was trained.
        state: of its Trainer.
        score: dataclass of what was measured on held-out data.
        corpus: dataclass that describes the data.
        settings: what decides the result.
        tokens_per_step: tokens of a batch.

    Returns:
        The metrics.
    """
    clock = recorded_seconds(state)
    tokens = state.global_step * tokens_per_step
    return {
        "held_out": asdict(score),
        "training": {
            "steps": state.global_step,
            "stopped_by_the_clock": state.global_step < state.max_steps,
            "tokens": tokens,
            "seconds": clock["seconds"],
            "step_seconds": clock["step_seconds"],
            "tokens_per_second": round(tokens / max(clock["step_seconds"], 1e-9), 1),
            "peak_memory_bytes": peak_memory_bytes(),
        },
        "parameters": model.num_parameters(),
        "corpus": asdict(corpus),
        "settings": dict(settings),
        "machine": machine_record(),
    }


def write_reports(
    directory: Path,
    state: TrainerState,
    metrics: Mapping,
    references: Mapping[str, float],
    title: str,
) -> None:
    """Write `metrics.json`, `loss_curve.csv` and `loss_curve.png`.

    Args:
        directory: where to.
        state: of the Trainer, whose log has the curve.
        metrics: of :func:`collect_metrics`.
        references: names and bits per byte of what the model is compared with.
        title: of the figure.
    """
    write_json(directory / "metrics.json", metrics)
    write_loss_curve_csv(state.log_history, directory / "loss_curve.csv")
    plot_loss_curve(state.log_history, directory / "loss_curve.png", references, title)


def save_and_reload(
    directory: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    probe: Tensor,
) -> None:
    """Save a model and its tokenizer, load both through the Auto classes, and compare.

    Args:
        directory: where to.
        model: what to save.
        tokenizer: goes with it, if any.
        probe: ids of shape `(1, seq)`; both models must give the same logits.

    Raises:
        RuntimeError: if what was loaded is not what was saved.
    """
    model.save_pretrained(directory)
    loaded = AutoModelForCausalLM.from_pretrained(directory, device_map=model.device)
    was_training = model.training
    with torch.no_grad():
        before = model.eval()(input_ids=probe.to(model.device)).logits
        after = loaded.eval()(input_ids=probe.to(model.device)).logits
    model.train(was_training)
    if not torch.equal(before, after):
        difference = (before - after).abs().max()
        raise RuntimeError(f"the reloaded model's logits differ by up to {difference}")
    if tokenizer is None:
        return
    tokenizer.save_pretrained(directory)
    text = "naïve\t🙂\n"
    if AutoTokenizer.from_pretrained(directory)(text).input_ids != tokenizer(text).input_ids:
        raise RuntimeError("the reloaded tokenizer gives other ids")


def write_sample(directory: Path, prompt: str, max_new_tokens: int) -> str:
    """Continue a prompt with the text-generation pipeline; draws from the default generator."""
    generator = pipeline("text-generation", model=str(directory))
    outputs = generator(
        prompt,
        max_new_tokens=max_new_tokens,
        do_sample=True,
        temperature=0.8,
        return_full_text=False,
    )
    return outputs[0]["generated_text"]

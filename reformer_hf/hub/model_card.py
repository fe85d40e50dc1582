"""Filling in a model card from the metrics of a run."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from reformer_hf.hub.card import render

TEMPLATE = Path(__file__).with_suffix(".md")
"""Template of the cards of byte-level causal models."""


def build_model_card(
    template: Path,
    name: str,
    metrics: Mapping,
    license: str | None = None,
    curve: str = "loss_curve.png",
) -> ModelCard:
    """Fill in a card; every number in it comes from `metrics`.

    Args:
        template: a Jinja template whose metadata block is `card_data`.
        name: of the model.
        metrics: as :func:`reformer_hf.training.finish.collect_metrics` returns them.
        license: of the weights, as the Hub abbreviates it; None where nobody has decided.
        curve: address of the picture of the loss curve, seen from the card.

    Returns:
        The card. Nothing is sent anywhere.
    """
    data = ModelCardData(
        library_name="transformers",
        license=license,
        pipeline_tag="text-generation",
        tags=["reformer", "reformer_hf", "byte-level", "long-context"],
        model_name=name,
        eval_results=[_result(metrics)],
    )
    facts = {"license": license, "curve": curve, "has_code": False}
    return render(template, data, name=name, **facts, **metrics)


def _result(metrics: Mapping) -> EvalResult:
    held_out = metrics["held_out"]
    return EvalResult(
        task_type="text-generation",
        dataset_type="text",
        dataset_name=f"{metrics['corpus']['description']}, held-out part",
        metric_type="bits_per_byte",
        metric_name=f"Bits per byte, context {held_out['context']}, without overlap",
        metric_value=round(held_out["bits_per_byte"], 4),
    )

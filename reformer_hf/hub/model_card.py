"""Filling in a model card from the metrics of a run."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).with_suffix(".md")
"""Template of the cards of byte-level causal models."""


def build_model_card(template: Path, name: str, metrics: Mapping) -> ModelCard:
    """Fill in a card; every number in it comes from `metrics`.

    Args:
        template: a Jinja template whose metadata block is `card_data`.
        name: of the model.
        metrics: as :func:`reformer_hf.training.finish.collect_metrics` returns them.

    Returns:
        The card. Nothing is sent anywhere.
    """
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["reformer", "reformer_hf", "byte-level", "long-context"],
        model_name=name,
        eval_results=[_result(metrics)],
    )
    return ModelCard.from_template(data, template_path=str(template), name=name, **metrics)


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

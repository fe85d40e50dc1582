"""The model card of a run, for every task, made from the record of that run."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reformer_hf.hub.files import CARD

TEMPLATE = Path(__file__).with_suffix(".md")
RUN_RECORD = "run_record.json"
"""What the callback `RunRecord` of `reformer_hf.training` writes."""

PARTS = {"model", "data", "training", "hyperparameters", "evaluation", "machine"}
"""Of a record."""


class Task(NamedTuple):
    """What a kind of model is for.

    Attributes:
        tag: the Hub's name of it.
        auto_class: the Auto class that loads it.
        what: it, in words.
    """

    tag: str
    auto_class: str
    what: str


TASKS = {
    "CausalLM": Task("text-generation", "AutoModelForCausalLM", "continues texts"),
    "MaskedLM": Task("fill-mask", "AutoModelForMaskedLM", "fills in masked tokens"),
    "SequenceClassification": Task(
        "text-classification", "AutoModelForSequenceClassification", "classifies texts"
    ),
    "TokenClassification": Task(
        "token-classification", "AutoModelForTokenClassification", "classifies tokens"
    ),
    "QuestionAnswering": Task(
        "question-answering", "AutoModelForQuestionAnswering", "finds answers in a text"
    ),
    "MultipleChoice": Task("multiple-choice", "AutoModelForMultipleChoice", "chooses an answer"),
    "ConditionalGeneration": Task(
        "text2text-generation", "AutoModelForSeq2SeqLM", "turns one text into another"
    ),
    "Model": Task("feature-extraction", "AutoModel", "turns a text into vectors"),
}
"""End of an architecture's name to its task."""

IMAGES = Task("unconditional-image-generation", "AutoModelForCausalLM", "draws images byte by byte")
"""Of a causal model that was trained on images."""


class _Missing(StrictUndefined):
    """A missing value: an error, also where a format is applied to it, and never a gap."""

    __slots__ = ()
    __format__ = StrictUndefined._fail_with_undefined_error


def task_of(architecture: str) -> Task:
    """Tell the task of a model class.

    Raises:
        ValueError: if there is none.
    """
    for end, task in TASKS.items():
        if architecture.endswith(end):
            return task
    raise ValueError(
        f"architecture={architecture!r}: no known task; its name must end in one of "
        f"{', '.join(TASKS)}"
    )


def build_run_card(
    name: str,
    record: Mapping[str, Any],
    *,
    license: str | None = None,
    has_code: bool = False,
    curve: str | None = None,
) -> ModelCard:
    """Fill in the card; every number in it comes from `record`.

    Args:
        name: of the model.
        record: what `RunRecord` of `reformer_hf.training` wrote. It may also have `references`:
            names, such as that of a compressor, to bits per byte of the same text, or to metrics by
            name; and a `comparison` with them: its `verdict`, and for text the model's `score`
            among them, `unit` and `counted`; and a `sample`: a `prompt` and the `text` after it.
        license: of the weights, as the Hub abbreviates it; None if nobody has decided.
        has_code: whether the repository carries this package's code (`auto_map`).
        curve: address of the picture of the loss curve, seen from the card.

    Returns:
        The card. Nothing is sent anywhere.

    Raises:
        ValueError: if the record lacks a part.
    """
    if missing := sorted(PARTS - record.keys()):
        raise ValueError(f"the record of the run lacks {', '.join(missing)}")
    data = record["data"]
    kind = data.get("kind", "texts")
    task = IMAGES if kind == "images" else task_of(record["model"]["architecture"])
    results = [
        EvalResult(
            task_type=task.tag,
            dataset_type=data["dataset"] or kind.removesuffix("s"),
            dataset_name=f"{data['description']}, {data['evaluated_on']}",
            metric_type=metric,
            metric_value=round(value, 6),
        )
        for metric, value in record["evaluation"].items()
    ]
    metadata = ModelCardData(
        library_name="transformers",
        license=license,
        pipeline_tag=task.tag,
        datasets=[data["dataset"]] if data["dataset"] else None,
        tags=["reformer", "reformer_hf", "long-context"],
        model_name=name,
        eval_results=results or None,
    )
    facts = {"task": task, "license": license, "has_code": has_code, "curve": curve}
    environment = Environment(loader=FileSystemLoader(TEMPLATE.parent), undefined=_Missing)
    template = environment.get_template(TEMPLATE.name)
    references = record.get("references", {})
    columns = {name: each for name, each in references.items() if isinstance(each, Mapping)}
    facts["columns"] = columns
    facts["references"] = {n: bits for n, bits in references.items() if n not in columns}
    facts = {**record, **facts}
    text = template.render(card_data=metadata.to_yaml(), name=name, **facts)
    # Conditions leave blank lines.
    return ModelCard(re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n")


def write_run_card(folder: str | Path, name: str | None = None, license: str | None = None) -> Path:
    """Write the card of a run into its folder, from the record that lies there.

    Args:
        folder: the Trainer's `output_dir`.
        name: of the model; None takes the folder's.
        license: as for :func:`build_run_card`.

    Returns:
        The card's file.

    Raises:
        ValueError: if there is no record.
    """
    folder = Path(folder)
    file = folder / RUN_RECORD
    if not file.is_file():
        raise ValueError(f"{file} is not there: add the callback RunRecord to the Trainer")
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text("utf-8")) if config_file.is_file() else {}
    card = build_run_card(
        name or folder.absolute().name,
        json.loads(file.read_text("utf-8")),
        license=license,
        has_code="auto_map" in config,
        curve="loss_curve.png" if (folder / "loss_curve.png").is_file() else None,
    )
    card.save(folder / CARD)
    return folder / CARD


def use_run_card(trainer: Any, license: str | None = None) -> None:
    """Let `trainer.push_to_hub()` and `trainer.create_model_card()` write this card.

    Args:
        trainer: a Trainer with the callback `RunRecord`.
        license: as for :func:`build_run_card`; `trainer.push_to_hub(license=...)` replaces it.
    """

    def create_model_card(
        language=None, license=license, tags=None, model_name=None, **kwargs
    ) -> None:
        if trainer.is_world_process_zero():
            write_run_card(trainer.args.output_dir, model_name, license)

    trainer.create_model_card = create_model_card

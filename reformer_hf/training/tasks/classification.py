"""A classifier of texts or of words trained with `Trainer`, from arguments to results."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)

from reformer_hf.models.modeling_classification import ReformerHFForSequenceClassification
from reformer_hf.models.modeling_heads import ReformerHFForTokenClassification
from reformer_hf.training.arguments import PretrainedModelArguments
from reformer_hf.training.build import build_model, load_tokenizer
from reformer_hf.training.checkpoints import run_settings
from reformer_hf.training.data.collator import IGNORE_INDEX
from reformer_hf.training.data.labelled import (
    ClassificationDataArguments,
    choose_columns,
    hold_out,
    load_rows,
)
from reformer_hf.training.data.labelled_tokens import tokenize_rows
from reformer_hf.training.data.labels import LabelSpace, find_labels, number_names
from reformer_hf.training.data.sources import check_splits, wanted_splits
from reformer_hf.training.processes import hide_bars_unless
from reformer_hf.training.record import describe_data
from reformer_hf.training.trainer import (
    SealedCheckpoints,
    checkpoint_to_resume,
    run_callbacks,
    run_trainer,
)


def train_classification(
    model_arguments: PretrainedModelArguments,
    data_arguments: ClassificationDataArguments,
    training_arguments: TrainingArguments,
    prepare: Callable[[Trainer], None] = lambda trainer: None,
) -> dict[str, Any]:
    """Train, evaluate, predict and save, as far as the arguments say.

    The output folder gets the model, `train_results.json`, `eval_results.json`, `all_results.json`,
    `trainer_state.json`, `run_record.json`, a model card and, of predictions, `predictions.jsonl`.

    Args:
        model_arguments: which model.
        data_arguments: which data.
        training_arguments: how.
        prepare: is called with the Trainer before it runs; `use_run_card` of `reformer_hf.hub`
            makes the card ours.

    Returns:
        The content of `all_results.json`.

    Raises:
        FloatingPointError: if training diverges.
        OSError: if something cannot be found or the disk is full.
        ValueError: if arguments, data and model do not fit together.
    """
    doing = training_arguments
    wanted = wanted_splits(doing)
    hide_bars_unless(doing.local_process_index == 0)
    settings = run_settings(model_arguments, data_arguments.settings(), doing.seed)
    checkpoint = checkpoint_to_resume(doing, settings)
    set_seed(doing.seed)
    with doing.main_process_first(desc="loading the data"):
        whole = load_rows(data_arguments, model_arguments.cache_dir, model_arguments.token)
        rows = hold_out(whole, data_arguments, doing.seed)
    check_splits(wanted, rows)
    labels = _labels(model_arguments, data_arguments, whole)
    rows = {split: rows[split] for split in wanted}
    trainer, splits = _prepare(model_arguments, data_arguments, doing, rows, labels)
    prepare(trainer)

    def predict() -> dict[str, Any]:
        if "test" in splits:
            write_predictions(trainer, splits["test"], labels)
        return {}

    return run_trainer(trainer, checkpoint, finish=predict)


def _labels(
    model_arguments: PretrainedModelArguments,
    data_arguments: ClassificationDataArguments,
    rows: Mapping[str, Any],
) -> LabelSpace:
    """The labels of the training rows or, where there are none, those that the model knows.

    A trained classifier's labels stay as it numbers them, or its head would be read wrongly.
    """
    name, task = model_arguments.model_name_or_path, data_arguments.task_name
    train_rows: Any = rows.get("train")
    eval_rows: Any = rows.get("validation")
    if train_rows is None and name is None:
        raise ValueError("without training data, name a trained model with model_name_or_path")
    known: Any = name and AutoConfig.from_pretrained(
        name,
        cache_dir=model_arguments.cache_dir,
        revision=model_arguments.model_revision,
        token=model_arguments.token,
    )
    names = tuple(str(known.id2label[n]) for n in range(known.num_labels)) if known else ()
    if train_rows is None:
        kind: Any = "token" if task == "token" else known.problem_type
        kind = kind or "single_label_classification"
        column = eval_rows and choose_columns(data_arguments, eval_rows.column_names)[1]
        numbered = number_names(eval_rows, column, names) if column else ()
        return LabelSpace(kind, () if kind == "regression" else names, numbered)
    column = choose_columns(data_arguments, train_rows.column_names)[1]
    if column is None:
        raise ValueError(
            f"the training data have the columns {train_rows.column_names}, and none with a "
            "usual name for labels: choose label_column_name"
        )
    labels = find_labels(train_rows, column, task, data_arguments.do_regression)
    is_classifier = known and _model_class(task).__name__ in (known.architectures or ())
    return labels.in_order_of(names) if is_classifier else labels


def _model_class(task: str) -> type:
    if task == "token":
        return ReformerHFForTokenClassification
    return ReformerHFForSequenceClassification


def _prepare(
    model_arguments: PretrainedModelArguments,
    data_arguments: ClassificationDataArguments,
    training_arguments: TrainingArguments,
    rows: dict[str, Any],
    labels: LabelSpace,
) -> tuple[Trainer, dict[str, Any]]:
    """Build the model, tokenise the rows, and set the Trainer up."""
    tokenizer = load_tokenizer(model_arguments)
    tokenizer.padding_side = "right"  # so that places in a row are those in the text
    token = data_arguments.task_name == "token"
    model = build_model(
        _model_class(data_arguments.task_name),
        model_arguments,
        tokenizer,
        data_arguments.max_seq_length,
        task_fields=labels.config_fields(),
    )
    with training_arguments.main_process_first(desc="tokenising"):
        splits: dict[str, Any] = {
            split: tokenize_rows(
                part,
                tokenizer,
                data_arguments,
                labels,
                model.config.position_limit,
                labelled=split != "test",
            )
            for split, part in rows.items()
        }
    collator = DataCollatorForTokenClassification if token else DataCollatorWithPadding
    trainer = SealedCheckpoints(
        model,
        training_arguments,
        data_collator=collator(tokenizer),
        train_dataset=splits.get("train"),
        eval_dataset=splits.get("validation"),
        processing_class=tokenizer,
        compute_metrics=metrics_of(labels),
        preprocess_logits_for_metrics=choose_predictions,
        callbacks=run_callbacks(training_arguments, **describe_data(data_arguments)),
    )
    return trainer, splits


def write_predictions(trainer: Trainer, split: Any, labels: LabelSpace) -> None:
    """Write `predictions.jsonl`, what the model says of each row, as a JSON value per line."""
    # All scores: the choice of what metrics need looks at labels.
    trainer.preprocess_logits_for_metrics = None
    scores = np.asarray(trainer.predict(split, metric_key_prefix="predict").predictions)
    by_words = labels.kind == "token"
    words = zip(split["words"], split["word_count"], strict=True) if by_words else None
    if not trainer.is_world_process_zero():
        return
    folder = Path(str(trainer.args.output_dir))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for row, owners in zip(scores, words or [None] * len(scores), strict=True):
            found = _of_words(row, labels, *owners) if owners else _prediction(row, labels)
            file.write(json.dumps(found, ensure_ascii=False) + "\n")


def _prediction(scores: np.ndarray, labels: LabelSpace) -> Any:
    """What the scores of a row say in the words of the labels."""
    if labels.kind == "regression":
        return float(scores[0])
    if labels.kind == "multi_label_classification":
        return [name for name, score in zip(labels.names, scores, strict=True) if score > 0]
    return labels.names[int(scores.argmax())]


def _of_words(
    scores: np.ndarray, labels: LabelSpace, owners: Sequence[int | None], count: int
) -> list[str | None]:
    """The label of each word, from its last token; None if it has none, as if cut off."""
    last = {word: place for place, word in enumerate(owners)}
    places = [last.get(word) for word in range(count)]
    return [None if p is None else labels.names[int(scores[p].argmax())] for p in places]


def choose_predictions(logits: Tensor | tuple, labels: Tensor) -> Tensor:
    """Keep what metrics need of the logits: the best class where there is one per row or token.

    For `preprocess_logits_for_metrics`, so that evaluation does not hold the logits of all tokens.
    """
    scores = logits[0] if isinstance(logits, tuple) else logits
    chosen = not torch.is_floating_point(labels) and scores.shape[-1] > 1
    return scores.argmax(dim=-1) if chosen else scores


def metrics_of(labels: LabelSpace) -> Callable[[EvalPrediction], dict[str, float]]:
    """The function that measures predictions of these labels, for `compute_metrics`."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        found: Any = prediction.predictions
        true = np.asarray(prediction.label_ids)
        found = np.asarray(found[0] if isinstance(found, tuple) else found)
        if labels.kind == "regression":
            difference = found.reshape(true.shape) - true
            return {
                "mse": float((difference**2).mean()),
                "mae": float(np.abs(difference).mean()),
            }
        if labels.kind == "multi_label_classification":
            return _of_several(found > 0, true > 0.5)
        counted = true != IGNORE_INDEX
        scores = _of_classes(found[counted], true[counted], len(labels.names))
        if labels.kind == "token" and any(name.startswith("B-") for name in labels.names):
            rows = [
                ([labels.names[n] for n in f[c]], [labels.names[n] for n in t[c]])
                for f, t, c in zip(found, true, counted, strict=True)
            ]
            scores |= _of_entities(rows)
        return scores

    return compute


def _of_classes(found: np.ndarray, true: np.ndarray, count: int) -> dict[str, float]:
    """Accuracy, and the mean F1 over the classes that occur."""
    confusion = np.bincount(true * count + found, minlength=count * count).reshape(count, count)
    right, seen = confusion.diagonal(), confusion.sum(axis=0) + confusion.sum(axis=1)
    occurring = seen > 0
    return {
        "accuracy": float(right.sum() / max(1, confusion.sum())),
        "f1_macro": float((2 * right[occurring] / seen[occurring]).mean()),
    }


def _of_several(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """F1 over all decisions, and the share of rows in which all are right."""
    both, all_ = (found & true).sum(), found.sum() + true.sum()
    return {
        "f1_micro": float(2 * both / max(1, all_)),
        "accuracy": float((found == true).all(axis=-1).mean()),
    }


def _of_entities(rows: Sequence[tuple[list[str], list[str]]]) -> dict[str, float]:
    """Precision, recall and F1 of whole entities, in place and kind."""
    right = proposed = wanted = 0
    for found, true in rows:
        found_spans, true_spans = entity_spans(found), entity_spans(true)
        right += len(found_spans & true_spans)
        proposed, wanted = proposed + len(found_spans), wanted + len(true_spans)
    return {
        "entity_precision": right / max(1, proposed),
        "entity_recall": right / max(1, wanted),
        "entity_f1": 2 * right / max(1, proposed + wanted),
    }


def entity_spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Kind, first place and place behind the last one of each entity in IOB2 tags.

    An I- tag that continues no entity of its kind begins one, as in the CoNLL evaluation.

    >>> sorted(entity_spans(["B-X", "I-X", "O", "I-Y", "B-Y"]))
    [('X', 0, 2), ('Y', 3, 4), ('Y', 4, 5)]
    """
    spans, kind, begin = set(), None, 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        continues = prefix == "I" and name == kind
        if kind is not None and not continues:
            spans.add((kind, begin, place))
        if not continues:
            kind, begin = (name, place) if prefix in ("B", "I") else (None, place)
    return spans

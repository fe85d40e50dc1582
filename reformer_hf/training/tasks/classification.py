"""A classifier of texts or of words trained with `Trainer`, from arguments to results."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from reformer_hf.models.labels import row_loss
from reformer_hf.models.modeling_classification import ReformerHFForSequenceClassification
from reformer_hf.models.modeling_heads import ReformerHFForTokenClassification
from reformer_hf.training.argument_checks import check_predictions
from reformer_hf.training.arguments import PretrainedModelArguments
from reformer_hf.training.build import build_model, load_tokenizer
from reformer_hf.training.checkpoints import run_settings
from reformer_hf.training.data.labelled import (
    ClassificationDataArguments,
    choose_columns,
    hold_out,
    load_rows,
)
from reformer_hf.training.data.labelled_tokens import tokenize_rows
from reformer_hf.training.data.labels import LabelSpace, find_labels, number_names
from reformer_hf.training.data.sources import check_splits, wanted_splits
from reformer_hf.training.filled_rows import LabelledRowsTrainer, has_label
from reformer_hf.training.label_baselines import label_references
from reformer_hf.training.label_metrics import LabelMetrics, report_classes
from reformer_hf.training.processes import hide_bars_unless
from reformer_hf.training.record import describe_data
from reformer_hf.training.references import keep_references
from reformer_hf.training.trainer import (
    SealedCheckpoints,
    checkpoint_to_resume,
    run_callbacks,
    run_trainer,
)


class ClassificationTrainer(LabelledRowsTrainer, SealedCheckpoints):
    """A `Trainer` for classifiers, whose results do not depend on the number of processes."""


def train_classification(
    model_arguments: PretrainedModelArguments,
    data_arguments: ClassificationDataArguments,
    training_arguments: TrainingArguments,
    prepare: Callable[[Trainer], None] = lambda trainer: None,
) -> dict[str, Any]:
    """Train, evaluate, predict and save, as far as the arguments say.

    The output folder gets the model, `train_results.json`, `eval_results.json`, `all_results.json`,
    `trainer_state.json`, `run_record.json`, a model card and, of predictions, `predictions.jsonl`.
    An evaluation of classes leaves `class_scores.csv` and `confusion_matrix.csv`.

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
    check_predictions(doing)
    hide_bars_unless(doing.local_process_index == 0)
    settings = run_settings(model_arguments, data_arguments.settings(), doing.seed)
    checkpoint = checkpoint_to_resume(doing, settings)
    set_seed(doing.seed)
    with doing.main_process_first(desc="loading the data"):
        whole = load_rows(data_arguments, model_arguments.cache_dir, model_arguments.token)
        rows = hold_out(whole, data_arguments, doing.seed)
    check_splits(wanted, rows)
    labels = _labels(model_arguments, data_arguments, whole)
    _check_smoothing(doing, labels)
    rows = {split: rows[split] for split in wanted}
    measure = LabelMetrics(labels)
    trainer, splits = _prepare(model_arguments, data_arguments, doing, rows, measure)
    prepare(trainer)

    def compare(metrics: dict[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        if trainer.is_world_process_zero():
            if measure.confusion is not None:
                report_classes(Path(str(doing.output_dir)), labels.names, measure.confusion)
            if data_arguments.baselines and doing.do_train:
                references = label_references(labels, data_arguments, rows, splits)
                kept = keep_references(trainer, metrics, references, measure.deciding)
        trainer.accelerator.wait_for_everyone()
        return kept

    def predict() -> dict[str, Any]:
        if "test" in splits:
            write_predictions(trainer, splits["test"], labels)
        return {}

    return run_trainer(trainer, checkpoint, finish=predict, compare=compare)


def _check_smoothing(training: TrainingArguments, labels: LabelSpace) -> None:
    what = {"regression": "numbers", "multi_label_classification": "several at a time"}
    if training.label_smoothing_factor and labels.kind in what:
        raise ValueError(
            f"label_smoothing_factor={training.label_smoothing_factor}: is for one class per row "
            f"or word, and the labels are {what[labels.kind]}; leave it out"
        )


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
    measure: LabelMetrics,
) -> tuple[Trainer, dict[str, Any]]:
    """Build the model, tokenise the rows, and set the Trainer up."""
    labels = measure.labels
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
    of_numbers = labels.kind in ("regression", "multi_label_classification")
    trainer = ClassificationTrainer(
        model,
        training_arguments,
        data_collator=collator(tokenizer),
        train_dataset=splits.get("train"),
        eval_dataset=splits.get("validation"),
        processing_class=tokenizer,
        compute_loss_func=partial(loss_of_numbers, kind=labels.kind) if of_numbers else None,
        compute_metrics=measure,
        preprocess_logits_for_metrics=choose_predictions,
        callbacks=run_callbacks(training_arguments, **describe_data(data_arguments)),
    )
    return trainer, splits


def loss_of_numbers(
    outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None, *, kind: Any
) -> Tensor:
    """The model's loss of the rows that have labels, for `compute_loss_func`.

    Args:
        outputs: with logits, (batch, classes).
        labels: numbers, (batch,) or (batch, classes), NaN in blank rows.
        num_items_in_batch: what the summed loss is divided by; None for the mean.
        kind: `problem_type` of the model.
    """
    real = has_label(labels).flatten(1).all(1) if labels.ndim > 1 else has_label(labels)
    if num_items_in_batch is not None:  # DataParallel gives one for each device
        num_items_in_batch = torch.as_tensor(num_items_in_batch).sum()
    return row_loss(outputs["logits"][real], labels[real], kind, num_items_in_batch)


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

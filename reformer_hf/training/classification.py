"""A classifier of texts or of words trained with `Trainer`, from arguments to results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from transformers import (
    AutoConfig,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from reformer_hf.models.modeling_classification import ReformerHFForSequenceClassification
from reformer_hf.models.modeling_heads import ReformerHFForTokenClassification
from reformer_hf.training.build import build_model, load_tokenizer
from reformer_hf.training.callbacks import StopOnDivergence
from reformer_hf.training.checkpoints import SealCheckpoints
from reformer_hf.training.classification_arguments import ClassificationDataArguments
from reformer_hf.training.classification_data import choose_columns, load_rows, tokenize_rows
from reformer_hf.training.classification_metrics import choose_predictions, metrics_of
from reformer_hf.training.labels import LabelSpace, find_labels
from reformer_hf.training.model_arguments import PretrainedModelArguments
from reformer_hf.training.processes import hide_bars_unless
from reformer_hf.training.run_record import RunRecord, describe_data
from reformer_hf.training.trainer_steps import (
    checkpoint_to_resume,
    keep_metrics,
    train_or_load,
    upload_or_describe,
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
        OSError: if something cannot be found.
        ValueError: if arguments, data and model do not fit together.
    """
    doing = training_arguments
    if not (doing.do_train or doing.do_eval or doing.do_predict):
        raise ValueError("there is nothing to do: give --do_train, --do_eval or --do_predict")
    hide_bars_unless(doing.local_process_index == 0)
    checkpoint = checkpoint_to_resume(doing)
    set_seed(doing.seed)
    with doing.main_process_first(desc="loading the data"):
        rows = load_rows(
            data_arguments, model_arguments.cache_dir, model_arguments.token, doing.seed
        )
    wanted = {"train": doing.do_train, "validation": doing.do_eval, "test": doing.do_predict}
    for split in wanted:
        if wanted[split] and split not in rows:
            raise ValueError(f"there is no {split} data; name a {split}_file")
    labels = _labels(model_arguments, data_arguments, rows)
    rows = DatasetDict({split: part for split, part in rows.items() if wanted[str(split)]})
    trainer, splits = _prepare(model_arguments, data_arguments, doing, rows, labels)
    prepare(trainer)
    results: dict[str, Any] = {}
    if doing.do_train:
        metrics = train_or_load(trainer, checkpoint)
        trainer.save_model()
        trainer.save_state()
        results |= keep_metrics(trainer, "train", metrics)
    if doing.do_eval:
        results |= keep_metrics(trainer, "eval", trainer.evaluate())
    if doing.do_predict:
        write_predictions(trainer, splits["test"], labels)
    if doing.do_train:
        upload_or_describe(trainer)
    return results


def _labels(
    model_arguments: PretrainedModelArguments,
    data_arguments: ClassificationDataArguments,
    rows: DatasetDict,
) -> LabelSpace:
    """The labels of the training rows or, where there are none, those that the model knows.

    A trained model's numbers of the same labels stay, or its head would be read wrongly.
    """
    token = data_arguments.task_name == "token"
    if "train" in rows:
        column = choose_columns(data_arguments, rows["train"])[1]
        if column is None:
            raise ValueError(
                f"the training data have the columns {rows['train'].column_names}, and none with a "
                "usual name for labels: choose label_column_name"
            )
        found = find_labels(
            rows["train"], column, data_arguments.task_name, data_arguments.do_regression
        )
        if model_arguments.model_name_or_path is None:
            return found
        return found.in_order_of(_names(_config(model_arguments)))
    if model_arguments.model_name_or_path is None:
        raise ValueError("without training data, name a trained model with model_name_or_path")
    config = _config(model_arguments)
    kind: Any = "token" if token else config.problem_type or "single_label_classification"
    return LabelSpace(kind, () if kind == "regression" else tuple(_names(config)))


def _config(model_arguments: PretrainedModelArguments) -> Any:
    name: Any = model_arguments.model_name_or_path
    return AutoConfig.from_pretrained(
        name,
        cache_dir=model_arguments.cache_dir,
        revision=model_arguments.model_revision,
        token=model_arguments.token,
    )


def _names(config: Any) -> list[str]:
    return [config.id2label[number] for number in range(config.num_labels)]


def _prepare(
    model_arguments: PretrainedModelArguments,
    data_arguments: ClassificationDataArguments,
    training_arguments: TrainingArguments,
    rows: DatasetDict,
    labels: LabelSpace,
) -> tuple[Trainer, dict[str, Any]]:
    """Build the model, tokenise the rows, and set the Trainer up."""
    tokenizer = load_tokenizer(model_arguments)
    tokenizer.padding_side = "right"  # so that places in a row are those in the text
    token = data_arguments.task_name == "token"
    model = build_model(
        ReformerHFForTokenClassification if token else ReformerHFForSequenceClassification,
        model_arguments,
        tokenizer,
        data_arguments.max_seq_length,
        task_fields=labels.config_fields(),
    )
    with training_arguments.main_process_first(desc="tokenising"):
        splits: dict[str, Any] = {
            str(split): tokenize_rows(
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
    trainer = Trainer(
        model,
        training_arguments,
        data_collator=collator(tokenizer),
        train_dataset=splits.get("train"),
        eval_dataset=splits.get("validation"),
        processing_class=tokenizer,
        compute_metrics=metrics_of(labels),
        preprocess_logits_for_metrics=choose_predictions,
        callbacks=[
            StopOnDivergence(),
            SealCheckpoints(),
            RunRecord(**describe_data(data_arguments)),
        ],
    )
    return trainer, splits


def write_predictions(trainer: Trainer, split: Any, labels: LabelSpace) -> None:
    """Write `predictions.jsonl`, what the model says of each row, as a JSON value per line."""
    # All scores: the choice of what metrics need looks at labels.
    trainer.preprocess_logits_for_metrics = None
    scores = np.asarray(trainer.predict(split, metric_key_prefix="predict").predictions)
    words = split["words"] if labels.kind == "token" else [None] * len(split)
    if not trainer.is_world_process_zero():
        return
    folder = Path(str(trainer.args.output_dir))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for row, owners in zip(scores, words, strict=True):
            file.write(json.dumps(_prediction(row, labels, owners), ensure_ascii=False) + "\n")


def _prediction(scores: np.ndarray, labels: LabelSpace, words: list[int | None] | None) -> Any:
    """What the scores of a row say in the words of the labels; of words, at their last tokens."""
    if labels.kind == "regression":
        return float(scores[0])
    if labels.kind == "multi_label_classification":
        return [name for name, score in zip(labels.names, scores, strict=True) if score > 0]
    if words is None:
        return labels.names[int(scores.argmax())]
    last = {word: place for place, word in enumerate(words) if word is not None}
    return [labels.names[int(scores[place].argmax())] for place in last.values()]

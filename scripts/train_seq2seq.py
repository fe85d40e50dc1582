"""Train an encoder-decoder Reformer to translate, score it with sacreBLEU, translate a test set.

    python scripts/train_seq2seq.py --dataset_name wmt14 --dataset_config_name de-en \\
        --source_lang en --target_lang de --do_train --do_eval --predict_with_generate \\
        --label_smoothing_factor 0.1 --num_beams 4 --output_dir outputs/wmt14

Arguments are those of transformers' run_translation.py and Seq2SeqTrainingArguments. Without
--model_name_or_path a new model is trained, by default with a new SentencePiece vocabulary.
After an interruption the same command goes on from the last checkpoint. With --push_to_hub the
finished model is uploaded, with its card.
"""

import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerState,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME

from reformer_hf import ReformerHFForConditionalGeneration
from reformer_hf.hub.card import write_run_card
from reformer_hf.hub.upload import push_folder
from reformer_hf.training.callbacks import StopOnDivergence
from reformer_hf.training.checkpoints import SealCheckpoints
from reformer_hf.training.machine import machine_record, peak_memory_bytes
from reformer_hf.training.parsing import move_token
from reformer_hf.training.resumption import resume_point, run_script
from reformer_hf.training.run_directory import RunDirectory
from reformer_hf.training.run_record import RUN_RECORD, RunRecord, describe_data
from reformer_hf.training.storage import new_directory, readable_disk_errors, write_json
from reformer_hf.training.translation import (
    bleu_metrics,
    decode,
    load_pairs,
    open_tokenizer,
    tokenize_pairs,
)
from reformer_hf.training.translation_arguments import Seq2SeqModelArguments, TranslationArguments
from reformer_hf.training.translation_model import build_config

DECISIVE = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "warmup_steps",
    "lr_scheduler_type",
    "weight_decay",
    "label_smoothing_factor",
    "max_grad_norm",
    "optim",
    "seed",
)
"""Training arguments that may not change when a run goes on."""

NEEDS = {"do_train": "train", "do_eval": "validation", "do_predict": "test"}


@dataclass
class Job:
    """A run that is ready."""

    data: TranslationArguments
    training: Seq2SeqTrainingArguments
    directory: RunDirectory
    settings: dict
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    splits: dict[str, Any]
    checkpoint: Path | None
    upload: bool


def prepare(arguments: list[str] | None) -> Job | None:
    """Parse the arguments, load the data, and see how far a run in this folder has come."""
    kinds = [TranslationArguments, Seq2SeqModelArguments, Seq2SeqTrainingArguments]
    parser = HfArgumentParser(kinds, description=__doc__)  # type: ignore[arg-type]
    data, model_arguments, training = parser.parse_args_into_dataclasses(arguments)
    move_token(training)
    if training.world_size > 1:
        raise ValueError(
            f"{training.world_size} processes: this script prepares data and writes results in "
            "one; start it with python, or use Seq2SeqTrainer in a script of your own"
        )
    wanted = [flag for flag in NEEDS if getattr(training, flag)]
    if not wanted:
        raise ValueError(f"nothing to do: give at least one of {', '.join(NEEDS)}")
    if training.do_train is False and model_arguments.model_name_or_path is None:
        raise ValueError("model_name_or_path=None without do_train: name the model to evaluate")
    directory = RunDirectory(Path(training.output_dir))
    settings = {
        "data": asdict(data),
        "model": asdict(model_arguments),
        "training": {name: _plain(getattr(training, name)) for name in DECISIVE},
    }
    checkpoint = resume_point(directory, settings)
    if directory.is_finished:
        return None
    splits = load_pairs(data)
    for flag in wanted:
        if not len(splits.get(NEEDS[flag], ())):
            raise ValueError(f"{flag}=True, but the data has no {NEEDS[flag]} pairs")
    set_seed(training.seed)
    tokenizer = open_tokenizer(model_arguments, splits.get("train"), directory.corpus)
    longest = max(data.max_source_length, data.max_target_length, data.val_max_target_length or 0)
    begun = checkpoint or model_arguments.model_name_or_path
    if begun is not None:
        # Weights of another dtype would be too coarse to be trained.
        model = AutoModelForSeq2SeqLM.from_pretrained(begun, dtype="float32")
        limit = getattr(model.config, "position_limit", None)
        if limit is not None and longest > limit:
            raise ValueError(
                f"max_source_length={data.max_source_length} and max_target_length="
                f"{data.max_target_length}: the model has {limit} positions; choose smaller ones"
            )
    else:
        model = ReformerHFForConditionalGeneration(
            build_config(model_arguments, tokenizer, longest)
        )
    tokens = {
        split: tokenize_pairs(rows, tokenizer, data, held_out=split != "train")
        for split, rows in splits.items()
    }
    upload, training.push_to_hub = training.push_to_hub, False  # the Trainer sends checkpoints
    _set_up(training, data, directory)
    return Job(data, training, directory, settings, tokenizer, model, tokens, checkpoint, upload)


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)  # of an enumeration


def _set_up(
    training: Seq2SeqTrainingArguments, data: TranslationArguments, directory: RunDirectory
) -> None:
    """Have Trainer generate as the data's arguments say, and write where this script looks."""
    training.output_dir = str(directory.checkpoints)
    training.generation_max_length = training.generation_max_length or data.val_max_target_length
    training.generation_num_beams = data.num_beams or training.generation_num_beams or 1
    training.save_total_limit = training.save_total_limit or 2
    directory.checkpoints.mkdir(parents=True, exist_ok=True)


def run(job: Job) -> None:
    """Train, evaluate, predict, and write the folder of the model."""
    print(f"Model: {job.model.num_parameters():,} parameters, {len(job.tokenizer):,} tokens")
    job.model.generation_config.length_penalty = job.data.length_penalty  # type: ignore[union-attr]
    generates = job.training.predict_with_generate
    trainer = Seq2SeqTrainer(
        job.model,
        job.training,
        data_collator=DataCollatorForSeq2Seq(job.tokenizer, model=job.model),
        train_dataset=job.splits.get("train"),
        eval_dataset=job.splits.get("validation"),
        processing_class=job.tokenizer,
        compute_metrics=bleu_metrics(job.tokenizer) if generates else None,
        callbacks=[StopOnDivergence(), SealCheckpoints(), RunRecord(**describe_data(job.data))],
    )
    metrics: dict[str, Any] = {}
    predictions = None
    with readable_disk_errors(job.directory.path, "The checkpoints before this are whole."):
        if job.training.do_train:
            train(trainer, job.checkpoint)
        if job.training.do_eval:
            metrics |= trainer.evaluate(metric_key_prefix="eval")
        if job.training.do_predict:
            output = trainer.predict(job.splits["test"], metric_key_prefix="predict")
            metrics |= output.metrics or {}
            if generates:
                predictions = decode(job.tokenizer, output.predictions)  # type: ignore[arg-type]
        save(job, trainer, metrics, predictions)
    for name, value in metrics.items():
        print(f"  {name:26} {value:.4f}" if isinstance(value, float) else f"  {name:26} {value}")
    print(f"Saved: {job.directory.model}")
    if job.upload:
        push(job)


def train(trainer: Seq2SeqTrainer, checkpoint: Path | None) -> None:
    """Train to the end, from a checkpoint if there is one."""
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step >= state.max_steps:
            trainer.state = state  # resumed at its end, it would take one step more
            return
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def save(
    job: Job, trainer: Seq2SeqTrainer, metrics: dict[str, Any], predictions: list[str] | None
) -> None:
    """Write the model folder, all of it or nothing."""
    record = {
        "metrics": metrics,
        "settings": job.settings,
        "parameters": job.model.num_parameters(),
        "pairs": {split: len(rows) for split, rows in job.splits.items()},
        "peak_memory_bytes": peak_memory_bytes(),
        "log": trainer.state.log_history,
        "machine": machine_record(),
    }
    with new_directory(job.directory.model) as folder:
        job.model.save_pretrained(folder)
        job.tokenizer.save_pretrained(folder)
        write_json(folder / "metrics.json", record)
        if (made := job.directory.checkpoints / RUN_RECORD).is_file():  # not if it did not train
            shutil.copy(made, folder)
            write_run_card(folder, job.directory.path.absolute().name)
        if predictions is not None:
            text = "\n".join(predictions) + "\n"
            (folder / "generated_predictions.txt").write_text(text, encoding="utf-8")


def push(job: Job) -> None:
    """Upload the finished model to the Hub."""
    name = job.training.hub_model_id or job.directory.path.absolute().name
    private = job.training.hub_private_repo
    commit = push_folder(job.directory.model, name, private=private, exist_ok=True)
    print(f"Uploaded: {commit.commit_url}")


def main(arguments: list[str] | None = None) -> int:
    """Run, and turn what a user can mend into a message and an exit status."""
    return run_script(lambda: prepare(arguments), run)


if __name__ == "__main__":
    sys.exit(main())

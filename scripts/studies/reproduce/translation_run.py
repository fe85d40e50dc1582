"""One training of the study of translation, with the arguments of scripts/train_seq2seq.py."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from reformer_hf.training.arguments import argument
from reformer_hf.training.build import parse_overrides
from reformer_hf.training.callbacks import Clock, TellPace
from reformer_hf.training.data.pairs import TranslationArguments
from reformer_hf.training.parsing import parse_arguments
from reformer_hf.training.recipe import MODEL_FIELDS, OPTIMIZER
from reformer_hf.training.record import RUN_RECORD
from reformer_hf.training.storage import write_json
from reformer_hf.training.tasks.translation import (
    TranslationModelArguments,
    TranslationTrainingArguments,
    train_translation,
)
from scripts.studies.learning.peers import use_one_stream
from scripts.studies.learning.training import ProcessorClock
from scripts.studies.reproduce.memory import ONE_STREAM, VARIANTS, measure_steps

HEAD_SIZE = 32
MEMORY_LAYERS, MEMORY_TOKENS = (1, 2, 4), 4096
"""Times the layers at which a step is measured, and tokens of each side."""


@dataclass(frozen=True)
class Settings:
    """What decides the result of a run, beside its variant and seed."""

    max_steps: int = argument(300, "Optimizer steps of a run.")
    per_device_train_batch_size: int = argument(64, "Pairs of about the same length in a step.")
    max_length: int = argument(64, "Tokens of a source or target.")
    num_hidden_layers: int = argument(3, "Of encoder, and of decoder.")
    hidden_size: int = argument(128, "Width of a stream.")
    vocab_size: int = argument(4000, "Pieces of the vocabulary.")
    dropout: float = argument(0.1, "Of hidden states and attention.")
    label_smoothing_factor: float = argument(0.1, "Of the targets.")
    num_beams: int = argument(4, "Beams of the translations that are scored.")
    length_penalty: float = argument(0.6, "Exponent of their length.")
    max_eval_samples: int | None = argument(None, "Held-out pairs; all by default.")


def model_fields(settings: Settings, variant: str) -> dict[str, Any]:
    """Fields of the configuration."""
    recipe = parse_overrides(",".join(f"{name}={value}" for name, value in MODEL_FIELDS.items()))
    dropouts = [f"{part}_probs_dropout_prob" for part in ("local_attention", "lsh_attention")]
    return {
        **recipe,
        "use_qk_norm": False,  # which shared queries and keys cannot have
        "num_hidden_layers": settings.num_hidden_layers,
        "hidden_size": settings.hidden_size,
        "num_attention_heads": max(1, settings.hidden_size // HEAD_SIZE),
        "feed_forward_size": 4 * settings.hidden_size,
        **dict.fromkeys(["hidden_dropout_prob", *dropouts], settings.dropout),
        **VARIANTS[variant],
    }


def training_settings(request: dict, settings: Settings) -> dict[str, Any]:
    """A settings file of scripts/train_seq2seq.py."""
    pairs, steps = Path(request["pairs"]), settings.max_steps
    fields = model_fields(settings, request["variant"])
    chosen = asdict(settings)
    for name in ("max_length", "num_hidden_layers", "hidden_size", "dropout"):
        del chosen[name]
    return {
        **chosen,
        **{name: value for name, value in OPTIMIZER.items() if name != "num_warmup_steps"},
        "warmup_steps": min(int(OPTIMIZER["warmup_steps"]), steps // 2),
        "config_overrides": ",".join(f"{k}={json.dumps(v)}" for k, v in fields.items()),
        "train_file": str(pairs / "train.jsonl"),
        "validation_file": str(pairs / "validation.jsonl"),
        "source_lang": "en",
        "target_lang": "de",
        "max_source_length": settings.max_length,
        "max_target_length": settings.max_length,
        "per_device_eval_batch_size": 64,
        "train_sampling_strategy": "group_by_length",
        "do_train": True,
        "do_eval": True,
        "predict_with_generate": True,
        "eval_strategy": "steps",
        "eval_steps": 0.125,
        "save_steps": 0.125,
        "save_total_limit": 1,
        "logging_steps": max(1, steps // 40),
        "resume_from_checkpoint": "last",
        "output_dir": request["folder"],
        "seed": request["seed"],
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }


class LossMeanwhile(TrainerCallback):
    """Evaluations during training score the loss alone, and the one after it translates."""

    def on_train_begin(self, args, state, control, **kwargs):
        args.prediction_loss_only = True

    def on_train_end(self, args, state, control, **kwargs):
        args.prediction_loss_only = False


def answer(request: dict) -> dict:
    """Do the run of a request, with the memory of a step for the first seed; see `run_process`."""
    torch.set_num_threads(1)
    settings, variant = Settings(**request["settings"]), request["variant"]
    folder = Path(request["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f"{folder.name}.json")
    write_json(file, training_settings(request, settings))
    kinds = (TranslationModelArguments, TranslationArguments, TranslationTrainingArguments)

    def prepare(trainer: Trainer) -> None:
        for kind in (Clock, TellPace):
            trainer.remove_callback(kind)
        trainer.add_callback(ProcessorClock())
        trainer.add_callback(LossMeanwhile())
        if variant == ONE_STREAM:
            use_one_stream(trainer.model)  # type: ignore[arg-type]

    train_translation(*parse_arguments(kinds, [str(file)]), prepare=prepare)
    memory = {} if request["seed"] else step_memory(settings, variant)
    return {**read_results(folder), **memory}


def read_results(folder: Path) -> dict[str, Any]:
    """What the folder of a finished run says: seconds of steps are the processor's."""
    record, results, state = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in (RUN_RECORD, "all_results.json", "trainer_state.json")
    )
    losses = {e["step"]: e["eval_loss"] for e in state["log_history"] if "eval_loss" in e}
    return {
        "date": record["machine"]["date"],
        "parameters": record["model"]["parameters"],
        "seconds": results["train_step_seconds"],
        "tokens": results["train_tokens"],
        "peak_memory_bytes": results["train_peak_memory_bytes"],
        "held_out_loss": results["eval_loss"],
        "bleu": results["eval_bleu"],
        "bleu_signature": results["eval_bleu_signature"],
        "references": results["references"],
        "curve": list(losses.items()),
    }


def step_memory(settings: Settings, variant: str) -> dict[str, Any]:
    """The memory of a step against the layers of each side."""
    fields = model_fields(settings, variant)
    fields |= {"is_encoder_decoder": True, "decoder_start_token_id": 0}
    fields |= {"vocab_size": settings.vocab_size, "max_position_embeddings": settings.max_length}
    layers, models = fields.pop("num_hidden_layers"), {}
    for factor in MEMORY_LAYERS:
        count = factor * layers
        sides = {f"{side}_attn_layers": ["full"] * count for side in ("encoder", "decoder")}
        models[str(count)] = fields | sides
    rows = MEMORY_TOKENS // settings.max_length
    measured = measure_steps(variant, models, rows, settings.max_length)
    return measured if "error" in measured else {"step_memory": {variant: measured}}

"""One run of the comparison of reversible and plain encoder-decoders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DataCollatorForSeq2Seq,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainingArguments,
    set_seed,
)

from reformer_hf.training.arguments import argument
from reformer_hf.training.data.pairs import TranslationArguments, load_pairs, tokenize_pairs
from reformer_hf.training.tasks.translation import (
    TranslationModelArguments,
    TranslationTrainer,
    build_translator,
    open_tokenizer,
    special_tokens,
)
from reformer_hf.training.trainer import checkpoint_to_resume, train_or_load
from scripts.benchmarks.common.memory import PeakMemory

REVERSIBLE, PLAIN, ONE_STREAM = "reversible", "plain", "one stream"
SOURCE, TARGET = "en", "de"
HEADS = 4


@dataclass(frozen=True)
class Settings:
    """What decides the result of a run, beside its variant, seed and layers."""

    max_steps: int = argument(300, "Optimiser steps of a run.")
    per_device_train_batch_size: int = argument(16, "Pairs in a step.")
    max_length: int = argument(64, "Tokens of a source or target.")
    num_hidden_layers: int = argument(4, "Of encoder, and of decoder.")
    hidden_size: int = argument(128, "Width of a stream.")
    vocab_size: int = argument(2000, "Pieces of the vocabulary.")
    learning_rate: float = argument(2e-3, "Highest learning rate.")
    dropout: float = argument(0.1, "Of hidden states and attention.")
    memory_tokens: int = argument(
        4096, "Tokens on each side where a step's memory is measured, in rows of max_length."
    )


@dataclass(frozen=True)
class ReversibleRun:
    """What is trained.

    Attributes:
        variant: `reversible`; `plain`, the same model with all activations stored; or
            `one stream`, transformers' mBART of the same widths.
        seed: of weights, order and dropout; None to measure memory on random tokens instead.
        layers: of the encoder, and of the decoder.
        pairs_dir: what `make_translation_pairs.py` wrote.
        folder: of the comparison, with the vocabulary, and for checkpoints.
        settings: the rest.
    """

    variant: str
    seed: int | None
    layers: int
    pairs_dir: str
    folder: str
    settings: Settings

    @property
    def batch_size(self) -> int:
        """Pairs of a batch."""
        if self.seed is None:
            return self.settings.memory_tokens // self.settings.max_length
        return self.settings.per_device_train_batch_size

    def data_arguments(self) -> TranslationArguments:
        """Where the pairs are."""
        return TranslationArguments(
            source_lang=SOURCE,
            target_lang=TARGET,
            train_file=str(Path(self.pairs_dir) / "train.jsonl"),
            validation_file=str(Path(self.pairs_dir) / "validation.jsonl"),
            max_source_length=self.settings.max_length,
            max_target_length=self.settings.max_length,
        )

    def model_arguments(self) -> TranslationModelArguments:
        """Sizes of the Reformer."""
        fields = {
            "num_hidden_layers": self.layers,
            "num_attention_heads": HEADS,
            "hidden_size": self.settings.hidden_size,
            "feed_forward_size": 4 * self.settings.hidden_size,
            "hidden_dropout_prob": self.settings.dropout,
            "local_attention_probs_dropout_prob": self.settings.dropout,
            "lsh_attention_probs_dropout_prob": self.settings.dropout,
            "reversible": str(self.variant == REVERSIBLE).lower(),
            "activation_budget": 0,  # rebuild all activations, however few there are
        }
        return TranslationModelArguments(
            vocab_size=self.settings.vocab_size,
            config_overrides=",".join(f"{name}={value}" for name, value in fields.items()),
        )


def build_model(run: ReversibleRun, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model of a variant, with the weights of the default generator."""
    if run.variant != ONE_STREAM:
        return build_translator(run.model_arguments(), tokenizer, run.settings.max_length)
    return MBartForConditionalGeneration(
        MBartConfig(
            vocab_size=len(tokenizer),
            d_model=run.settings.hidden_size,
            encoder_layers=run.layers,
            decoder_layers=run.layers,
            encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS,
            encoder_ffn_dim=4 * run.settings.hidden_size,
            decoder_ffn_dim=4 * run.settings.hidden_size,
            activation_function="relu",
            dropout=run.settings.dropout,
            attention_dropout=run.settings.dropout,
            max_position_embeddings=run.settings.max_length,
            bos_token_id=None,
            forced_eos_token_id=None,
            **special_tokens(tokenizer),
        )
    )


def train(run: ReversibleRun) -> dict[str, Any]:
    """Train on the pairs, from the last checkpoint if there is one."""
    data = run.data_arguments()
    pairs = load_pairs(data)
    tokenizer = open_tokenizer(run.model_arguments(), pairs["train"], Path(run.folder))
    tokens: dict[str, Any] = {
        split: tokenize_pairs(rows, tokenizer, data, split) for split, rows in pairs.items()
    }
    seed = run.seed or 0
    set_seed(seed)
    model = build_model(run, tokenizer)
    trainer = TranslationTrainer(
        model,
        Seq2SeqTrainingArguments(
            output_dir=str(Path(run.folder) / "checkpoints" / f"{run.variant} {run.seed}"),
            do_train=True,
            resume_from_checkpoint="last",
            max_steps=run.settings.max_steps,
            per_device_train_batch_size=run.batch_size,
            per_device_eval_batch_size=run.batch_size,
            learning_rate=run.settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, run.settings.max_steps // 10),
            seed=seed,
            logging_steps=10,
            save_steps=50,
            save_total_limit=1,
            prediction_loss_only=True,
            report_to="none",
            dataloader_pin_memory=False,
        ),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        train_dataset=tokens["train"],
        eval_dataset=tokens["validation"],
    )
    checkpoint, memory = checkpoint_to_resume(trainer.args), PeakMemory()
    with memory.phase("training"):
        train_or_load(trainer, checkpoint)
    log = trainer.state.log_history
    return {
        "curve": [[entry["step"], entry["loss"]] for entry in log if "loss" in entry],
        "held_out_loss": trainer.evaluate()["eval_loss"],
        "parameters": model.num_parameters(),
        **memory.entries("training"),
        "resumed": checkpoint is not None,
    }


def measure_memory(run: ReversibleRun) -> dict[str, Any]:
    """Do two steps of forward and backward on random tokens of the full length."""
    tokenizer = open_tokenizer(run.model_arguments(), None, Path(run.folder))
    set_seed(0)
    model = build_model(run, tokenizer).train()
    ids = torch.randint(3, len(tokenizer), (2, run.batch_size, run.settings.max_length))
    memory = PeakMemory()
    with memory.phase("steps"):
        for _ in range(2):
            model(input_ids=ids[0], labels=ids[1]).loss.backward()
            model.zero_grad()
    return {"parameters": model.num_parameters(), **memory.entries("steps")}


def answer(request: dict) -> dict:
    """Do the run of a request; see `run_process`."""
    request["settings"] = Settings(**request["settings"])
    run = ReversibleRun(**request)
    return measure_memory(run) if run.seed is None else train(run)

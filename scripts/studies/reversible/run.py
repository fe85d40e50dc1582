"""One run of the comparison of reversible and plain encoder-decoders."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DataCollatorForSeq2Seq,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

from reformer_hf import ReformerHFForConditionalGeneration
from reformer_hf.training.callbacks import StopOnDivergence
from reformer_hf.training.checkpoints import SealCheckpoints
from reformer_hf.training.data.pairs import TranslationArguments, load_pairs, tokenize_pairs
from reformer_hf.training.tasks.translation import (
    Seq2SeqModelArguments,
    build_config,
    open_tokenizer,
    special_tokens,
)
from reformer_hf.training.trainer_steps import checkpoint_to_resume, train_or_load
from scripts.benchmarks.common.memory import PeakMemory

REVERSIBLE, PLAIN, ONE_STREAM = "reversible", "plain", "one stream"
SOURCE, TARGET = "en", "de"


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
        max_steps: optimiser steps.
        batch_size: pairs of a batch.
        max_length: tokens of a source or a target.
        hidden_size: width of a stream.
        vocab_size: pieces.
        learning_rate: highest.
        dropout: probability, of hidden states and attention.
    """

    variant: str
    seed: int | None
    layers: int
    pairs_dir: str
    folder: str
    max_steps: int
    batch_size: int
    max_length: int
    hidden_size: int
    vocab_size: int
    learning_rate: float
    dropout: float

    def record(self) -> dict[str, Any]:
        """What decides the result, without the names of folders."""
        return {k: v for k, v in asdict(self).items() if k not in ("pairs_dir", "folder")}

    def data_arguments(self) -> TranslationArguments:
        """Where the pairs are."""
        return TranslationArguments(
            source_lang=SOURCE,
            target_lang=TARGET,
            train_file=str(Path(self.pairs_dir) / "train.jsonl"),
            validation_file=str(Path(self.pairs_dir) / "validation.jsonl"),
            max_source_length=self.max_length,
            max_target_length=self.max_length,
        )

    def model_arguments(self) -> Seq2SeqModelArguments:
        """Sizes of the Reformer."""
        return Seq2SeqModelArguments(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            feed_forward_size=4 * self.hidden_size,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            reversible=self.variant == REVERSIBLE,
        )


def build_model(run: ReversibleRun, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model of a variant, with the weights of the default generator."""
    sizes = run.model_arguments()
    if run.variant != ONE_STREAM:
        config = build_config(sizes, tokenizer, run.max_length)
        config.activation_budget = 0  # rebuild all activations, however few there are
        return ReformerHFForConditionalGeneration(config)
    return MBartForConditionalGeneration(
        MBartConfig(
            vocab_size=len(tokenizer),
            d_model=run.hidden_size,
            encoder_layers=run.layers,
            decoder_layers=run.layers,
            encoder_attention_heads=sizes.num_attention_heads,
            decoder_attention_heads=sizes.num_attention_heads,
            encoder_ffn_dim=sizes.feed_forward_size,
            decoder_ffn_dim=sizes.feed_forward_size,
            activation_function="relu",
            dropout=run.dropout,
            attention_dropout=run.dropout,
            max_position_embeddings=run.max_length,
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
        split: tokenize_pairs(rows, tokenizer, data) for split, rows in pairs.items()
    }
    seed = run.seed or 0
    set_seed(seed)
    model = build_model(run, tokenizer)
    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(
            output_dir=str(Path(run.folder) / "checkpoints" / f"{run.variant} {run.seed}"),
            resume_from_checkpoint="last",
            max_steps=run.max_steps,
            per_device_train_batch_size=run.batch_size,
            per_device_eval_batch_size=run.batch_size,
            learning_rate=run.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, run.max_steps // 10),
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
        callbacks=[StopOnDivergence(), SealCheckpoints()],
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
    ids = torch.randint(3, len(tokenizer), (2, run.batch_size, run.max_length))
    memory = PeakMemory()
    with memory.phase("steps"):
        for _ in range(2):
            model(input_ids=ids[0], labels=ids[1]).loss.backward()
            model.zero_grad()
    return {"parameters": model.num_parameters(), **memory.entries("steps")}


def answer(request: dict) -> dict:
    """Do the run of a request; see `child.py`."""
    run = ReversibleRun(**request)
    return measure_memory(run) if run.seed is None else train(run)

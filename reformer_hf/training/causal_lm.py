"""Training a byte-level causal Reformer with transformers' `Trainer`, resumably."""

import math
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.tokenization_reformer_hf import BYTE_VOCABULARY, EOS_TOKEN, PAD_TOKEN
from reformer_hf.training.arguments import (
    LayerArguments,
    ModelArguments,
    OptimizationArguments,
    RunArguments,
)
from reformer_hf.training.callbacks import Clock, StopOnDivergence
from reformer_hf.training.checkpoints import SealCheckpoints
from reformer_hf.training.storage import readable_disk_errors


def build_config(arguments: ModelArguments) -> ReformerHFConfig:
    """Configure a causal Reformer over the bytes of texts, with axial positions."""
    half = arguments.hidden_size // 2
    return causal_config(
        arguments,
        vocab_size=len(BYTE_VOCABULARY),
        pad_token_id=BYTE_VOCABULARY[PAD_TOKEN],
        eos_token_id=BYTE_VOCABULARY[EOS_TOKEN],
        axial_pos_shape=list(axial_shape(arguments.block_size)),
        axial_pos_embds_dim=[half, arguments.hidden_size - half],
        max_position_embeddings=arguments.block_size,
    )


def causal_config(arguments: LayerArguments, **fields: Any) -> ReformerHFConfig:
    """Configure a causal Reformer: `band` scope, local and LSH layers in turn.

    Args:
        arguments: sizes of the layers.
        **fields: vocabulary and positions.
    """
    return ReformerHFConfig(
        is_decoder=True,
        attention_scope="band",
        attn_layers=[("local", "lsh")[layer % 2] for layer in range(arguments.num_hidden_layers)],
        hidden_size=arguments.hidden_size,
        num_attention_heads=arguments.num_attention_heads,
        attention_head_size=arguments.hidden_size // arguments.num_attention_heads,
        feed_forward_size=arguments.feed_forward_size,
        local_attn_chunk_length=arguments.attn_chunk_length,
        lsh_attn_chunk_length=arguments.attn_chunk_length,
        local_num_chunks_before=1,
        lsh_num_chunks_before=1,
        local_num_chunks_after=0,
        lsh_num_chunks_after=0,
        num_hashes=arguments.num_hashes,
        position_embedding_type="axial",
        # As wide as the word embeddings: at 1, transformers' default, positions drown the words
        # for hundreds of steps.
        axial_norm_std=0.02,
        hidden_dropout_prob=0.0,
        local_attention_probs_dropout_prob=0.0,
        lsh_attention_probs_dropout_prob=0.0,
        chunk_size_lm_head=1024,
        **fields,
    )


def axial_shape(positions: int) -> tuple[int, int]:
    """Choose two axis lengths, about equal, whose product covers a number of positions."""
    rows = 2 ** round(math.log2(positions) / 2)
    return rows, math.ceil(positions / rows)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    train_windows: Dataset,
    eval_windows: Dataset,
    optimization: OptimizationArguments,
    run: RunArguments,
    directory: Path,
    checkpoint: Path | None,
) -> tuple[PreTrainedModel, TrainerState]:
    """Train to `max_steps`, or until the time is up, with sealed checkpoints.

    Args:
        model: with initial weights; those of `checkpoint` replace them.
        tokenizer: saved with each checkpoint, if any.
        train_windows: shuffled anew in each epoch, by the seed.
        eval_windows: scored every `eval_steps`.
        optimization: what decides the result.
        run: what does not.
        directory: for checkpoints.
        checkpoint: a whole checkpoint to go on from.

    Returns:
        The trained model and the Trainer's state, whose log has the loss curve.

    Raises:
        FloatingPointError: if training diverges.
        OSError: if the disk is full.
    """
    clock = Clock(run.max_minutes)
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        # The Trainer would take one step more.
        if state.global_step >= optimization.max_steps or clock.is_up(state):
            return type(model).from_pretrained(checkpoint), state
    trainer = Trainer(
        model,
        training_arguments(optimization, run, directory),
        train_dataset=train_windows,
        eval_dataset=eval_windows,
        processing_class=tokenizer,
        callbacks=[clock, StopOnDivergence(), SealCheckpoints()],
    )
    directory.mkdir(parents=True, exist_ok=True)
    with readable_disk_errors(directory, "The checkpoints before this one are whole."):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return model, trainer.state


def training_arguments(
    optimization: OptimizationArguments, run: RunArguments, directory: Path
) -> TrainingArguments:
    """Translate the arguments of a run into those of the Trainer."""
    return TrainingArguments(
        output_dir=str(directory),
        max_steps=optimization.max_steps,
        per_device_train_batch_size=optimization.per_device_train_batch_size,
        per_device_eval_batch_size=1,
        learning_rate=optimization.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=optimization.warmup_steps,
        weight_decay=optimization.weight_decay,
        seed=optimization.seed,
        logging_steps=run.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=run.eval_steps,
        save_steps=run.save_steps,
        save_total_limit=2,
        prediction_loss_only=True,
        remove_unused_columns=False,  # `shift_labels` is no parameter of a forward
        dataloader_pin_memory=False,
        report_to="none",
    )

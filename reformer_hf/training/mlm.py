"""A masked language model trained with `Trainer`: what differs from a causal one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from reformer_hf.models.modeling_heads import ReformerHFForMaskedLM
from reformer_hf.training.clm import Task, train_clm
from reformer_hf.training.collator import ReformerDataCollator
from reformer_hf.training.data_arguments import DataTrainingArguments, argument
from reformer_hf.training.model_arguments import PretrainedModelArguments
from reformer_hf.training.trainer import MaskedLMTrainer

MASK_TOKEN = "<mask>"


@dataclass
class MaskedDataArguments(DataTrainingArguments):
    """The data of a masked language model."""

    mlm_probability: float = argument(0.15, "Share of the tokens that the model is to predict.")

    max_seq_length: int | None = argument(None, "The name that run_mlm.py has for block_size.")

    def __post_init__(self):
        if self.max_seq_length is not None:
            if self.block_size not in (None, self.max_seq_length):
                raise ValueError(
                    f"max_seq_length={self.max_seq_length} and block_size={self.block_size} are "
                    "the same argument: give one of them"
                )
            self.block_size = self.max_seq_length
        super().__post_init__()
        if not 0 < self.mlm_probability < 1:
            raise ValueError(
                f"mlm_probability={self.mlm_probability}: choose a share between 0 and 1"
            )


def train_mlm(
    model_arguments: PretrainedModelArguments,
    data_arguments: MaskedDataArguments,
    training_arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
    prepare: Callable[[Trainer], None] = lambda trainer: None,
) -> dict[str, Any]:
    """Train, evaluate and save, as :func:`reformer_hf.training.clm.train_clm` does."""
    probability = data_arguments.mlm_probability
    task = Task(
        model_class=ReformerHFForMaskedLM,
        trainer_class=MaskedLMTrainer,
        make_collator=partial(ReformerDataCollator, mlm=True, mlm_probability=probability),
        fields={"is_decoder": False},
        complete=add_mask_token,
    )
    return train_clm(model_arguments, data_arguments, training_arguments, callbacks, task, prepare)


def add_mask_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer a mask token if it has none; it is read in texts, as fill-mask needs it."""
    if tokenizer.mask_token is None:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
        tokenizer.split_special_tokens = False

"""What a language model is trained on, from and how, as dataclasses for the command line.

The names are those of transformers' example scripts.
"""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import TrainingArguments

from reformer_hf.training.argument_checks import (
    check_choices,
    check_muon,
    check_optimizer_in_backward,
    check_ranges,
    check_seed,
    check_source,
    check_use,
    choose_best,
    expand_home,
    read_mappings,
    refuse_negative,
    refuse_unused,
    require_positive,
    warn_of_slow_bfloat16,
)
from reformer_hf.training.row_schedule import check_row_lengths
from reformer_hf.training.storage import passing_folder

_SCHEDULERS = [
    *("linear", "cosine", "cosine_with_restarts", "polynomial"),
    *("constant", "constant_with_warmup", "inverse_sqrt"),
]
_MUON_RATE = (
    "Highest learning rate of Muon, which then trains the matrices of the layers; AdamW trains the "
    "rest. Default, or 0: AdamW alone."
)
_IN_BACKWARD = (
    "Update each layer in backward as soon as its gradients are there, and free them: the set of "
    "all gradients is never in memory. max_grad_norm is of each layer then, not of the model."
)
_SEQUENCE_PARALLEL = (
    "Processes that hold a row together, each a part of it; a divisor of the number of processes. "
    "Causal and masked language models only."
)
Packing = Literal["documents", "blocks", "none"]
DRY_RUN = (
    "Prepare the run, take a few steps on its data, say how long it will take and how much memory, "
    "and end. Nothing is written to output_dir."
)


def argument(default: Any, help: str, **metadata: Any) -> Any:
    """Make a field of a dataclass of arguments; a list is copied for each instance.

    Args:
        default: of the argument.
        help: what it means. A per cent sign stands for itself.
        **metadata: such as `choices`.
    """
    metadata |= {"help": help.replace("%", "%%")}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class DataTrainingArguments:
    """Where the text comes from and how it becomes rows of tokens."""

    _argument_group_name = "data"

    dataset_name: str | None = argument(None, "Name of a dataset on the Hub, or a local one.")
    dataset_config_name: str | None = argument(None, "Configuration of that dataset.")
    train_file: str | None = argument(
        None,
        "Text (.txt or any other ending), or rows: .json, .jsonl, .csv, .tsv, .parquet. A folder "
        "or a pattern such as 'texts/**/*.txt' names several files. A text file is one document.",
    )
    validation_file: str | None = argument(None, "The same, to evaluate on.")
    text_column_name: str | None = argument(
        None, "Column that holds the text. Default: 'text', or else the first column."
    )
    data_format: Literal["text", "bytes"] = argument(
        "text",
        "'bytes' reads train_file and validation_file byte by byte when a row is needed, without "
        "tokenising or copying them: for ReformerHFByteTokenizer and files of any size.",
    )
    streaming: bool = argument(False, "Read the data while training, without a cache.")
    shuffle_buffer_size: int | None = argument(
        None,
        "Rows among which a stream is shuffled. Default: as many as hold 2 million tokens. Data on "
        "the disk are shuffled as a whole.",
    )
    validation_split_percentage: int = argument(
        5, "Share of the rows that is held out where there is no validation data."
    )
    max_train_samples: int | None = argument(None, "Train on at most so many rows.")
    max_eval_samples: int | None = argument(
        None, "Evaluate on at most so many rows: the first ones; of bytes, evenly spread ones."
    )
    block_size: int | None = argument(
        None, "Tokens in a row. Default: the model's longest input, at most 8,192."
    )
    packing: Packing = argument(
        "documents",
        "What a row holds. 'documents': documents side by side which do not see each other; "
        "'blocks': one stream of text cut into blocks; 'none': one document, cut where too long.",
    )
    row_lengths: list[int] | None = argument(
        None,
        "Rows that grow with the steps: tokens in a row, from the first steps to the last, such as "
        "512 1024 2048 8192. Each gets the same share of the tokens, and divides the last one, "
        "which is block_size. Default: all rows have block_size tokens.",
    )
    tokens_per_step: list[int] | None = argument(
        None,
        "Most tokens of a step of the optimizer in all processes, with row_lengths: one number, or "
        "one for each length. It takes the place of per_device_train_batch_size. Default: what "
        "that, accumulation and processes give with rows of block_size.",
    )
    preprocessing_num_workers: int | None = argument(None, "Processes that tokenise.")
    overwrite_cache: bool = argument(False, "Tokenise again what is in the cache.")
    keep_linebreaks: bool = argument(True, "Keep the line breaks of text files.")
    baselines: bool = argument(True, "Compare the score with n-grams, gzip and bz2.")

    def __post_init__(self):
        expand_home(self, "dataset_name", "train_file", "validation_file")
        check_choices(self)
        check_source(self)
        limits = ("max_train_samples", "max_eval_samples", "block_size", "shuffle_buffer_size")
        require_positive(self, *limits)
        check_row_lengths(self.row_lengths, self.tokens_per_step)
        if self.row_lengths is not None and (self.streaming or self.packing == "none"):
            unfit = "streaming" if self.streaming else "packing='none'"
            raise ValueError(
                f"row_lengths={self.row_lengths} with {unfit}: rows of one length on the disk are "
                "cut into pieces; leave streaming out, and choose packing='documents' or 'blocks'"
            )
        if self.data_format == "bytes" and (self.dataset_name or self.streaming):
            raise ValueError(
                "data_format='bytes' reads files: give train_file and leave dataset_name and "
                "streaming out"
            )
        if self.data_format == "bytes":
            names = ("text_column_name", "preprocessing_num_workers", "overwrite_cache")
            refuse_unused(self, "with data_format='bytes'", *names, "keep_linebreaks")
        if self.streaming:
            names = ("preprocessing_num_workers", "overwrite_cache")
            refuse_unused(self, "with streaming", *names)
        else:
            refuse_unused(self, "without streaming", "shuffle_buffer_size")


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
            self.block_size, self.max_seq_length = self.max_seq_length, None
        super().__post_init__()
        if not 0 < self.mlm_probability < 1:
            raise ValueError(
                f"mlm_probability={self.mlm_probability}: choose a share between 0 and 1"
            )


@dataclass
class PretrainedModelArguments:
    """A checkpoint to go on from, or a configuration to start from, and what of it is trained."""

    _argument_group_name = "model"

    model_name_or_path: str | None = argument(
        None, "Checkpoint to start from: of this package, or in the format of google/reformer-*."
    )
    config_name: str | None = argument(
        None, "Configuration to start from, with random weights, if it is not the checkpoint's."
    )
    config_overrides: str | None = argument(
        None,
        "Fields of the configuration of a model with random weights, for example "
        "'hidden_size=512,attn_layers=[local,lsh],num_hashes=4'.",
    )
    tokenizer_name: str | None = argument(
        None,
        "Tokenizer, if it is not the model's; 'bytes' for ReformerHFByteTokenizer, which is also "
        "what a model with random weights gets.",
    )
    cache_dir: str | None = argument(None, "Where downloads and prepared data are kept.")
    model_revision: str = argument("main", "Branch, tag or commit of the checkpoint.")
    token: str | None = argument(
        None, "Token for private repositories. Default: the one of `hf auth login`."
    )
    trust_remote_code: bool = argument(False, "Run the code of a tokenizer's repository.")
    dtype: str | None = argument(
        None,
        "Type of the parameters. Default: float32, whatever the checkpoint has; for bfloat16 "
        "arithmetic with float32 parameters use --bf16 or --mixed_precision instead.",
        choices=["auto", "bfloat16", "float16", "float32"],
    )
    attn_implementation: str | None = argument(
        None,
        "How attention is computed.",
        choices=["auto", "blockwise", "sdpa", "triton", "eager", "flex_attention"],
    )
    freeze_embeddings: bool = argument(False, "Do not train word and position embeddings.")
    use_lora: bool = argument(False, "Train LoRA adapters instead of the weights (needs peft).")
    lora_r: int = argument(8, "Rank of the adapters.")
    lora_alpha: int = argument(16, "Scale of the adapters, times lora_r.")
    lora_dropout: float = argument(0.0, "Dropout before the adapters.")
    lora_target_modules: list[str] = argument(
        ["all-linear"], "Modules with adapters: 'all-linear', or names such as query_key value."
    )

    def __post_init__(self):
        expand_home(self, "model_name_or_path", "config_name", "tokenizer_name", "cache_dir")
        if self.config_overrides and self.model_name_or_path:
            raise ValueError(
                f"config_overrides={self.config_overrides!r} with model_name_or_path: the weights "
                "fit their own configuration; leave one of the two out"
            )
        if not self.use_lora:
            names = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
            refuse_unused(self, "without use_lora", *names)
        if self.model_name_or_path is None and self.tokenizer_name is None:
            refuse_unused(self, "without model_name_or_path", "model_revision")
        require_positive(self, "lora_r")


@dataclass
class ReformerTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments`, in a group of their own in the help.

    A loss that is no number is logged as such by default, so that the run can end.
    """

    _argument_group_name = "training (transformers' TrainingArguments)"

    logging_nan_inf_filter: bool = argument(
        False, "Log the mean of the other losses in place of one that is not a number."
    )

    max_minutes: float | None = argument(
        None,
        "Stop training after so many minutes, those before a resumption included, and save. "
        "Default: no limit.",
    )
    dry_run: bool = argument(False, DRY_RUN)

    muon_learning_rate: float | None = argument(None, _MUON_RATE)
    muon_momentum: float = argument(0.95, "Momentum of Muon.")
    optimizer_in_backward: bool = argument(False, _IN_BACKWARD)
    sequence_parallel_size: int = argument(1, _SEQUENCE_PARALLEL)

    def __post_init__(self):
        expand_home(self, "resume_from_checkpoint")
        require_positive(self, "sequence_parallel_size")
        if self.dry_run and not self.do_train:
            raise ValueError("dry_run=True without do_train: nothing is trained; give do_train")
        if self.dry_run:
            keep_nothing(self)
            self.report_to = "none"
        read_mappings(self)
        check_ranges(self)
        check_muon(self, "adamw_torch", "adamw_torch_fused")
        optimizers = ("adamw_torch", "adamw_torch_fused", "adafactor")
        check_optimizer_in_backward(self, self.fp16, *optimizers)
        check_use(self)
        choose_best(self)
        super().__post_init__()
        warn_of_slow_bfloat16(self.device.type, self.bf16)
        move_token(self)


@dataclass
class LoopArguments:
    """Optimizer, schedule, checkpoints, reports; the names are those of run_clm_no_trainer.py."""

    _argument_group_name = "training"

    output_dir: str = argument("outputs/train_clm_no_trainer", "Folder for all that is written.")
    per_device_train_batch_size: int = argument(8, "Rows of a process in a forward pass.")
    per_device_eval_batch_size: int = argument(8, "The same in an evaluation.")
    gradient_accumulation_steps: int = argument(1, "Forward passes in a step of the optimizer.")
    num_train_epochs: int = argument(3, "Passes over the rows.")
    max_train_steps: int | None = argument(None, "Steps; instead of num_train_epochs if given.")
    optim: str = argument("adamw", "The optimizer.", choices=["adamw", "adafactor"])
    learning_rate: float = argument(5e-5, "Highest learning rate.")
    muon_learning_rate: float | None = argument(None, _MUON_RATE)
    muon_momentum: float = argument(0.95, "Momentum of Muon.")
    optimizer_in_backward: bool = argument(False, _IN_BACKWARD)
    sequence_parallel_size: int = argument(1, _SEQUENCE_PARALLEL)
    weight_decay: float = argument(0.0, "Weight decay, not of biases and layer norms.")
    adam_beta1: float = argument(0.9, "Of AdamW; also Adafactor's if it is not 0.9.")
    adam_beta2: float = argument(0.999, "Of AdamW.")
    max_grad_norm: float | None = argument(None, "Longest gradient. Default, or 0: no limit.")
    lr_scheduler_type: str = argument("linear", "How the learning rate falls.", choices=_SCHEDULERS)
    num_warmup_steps: int = argument(0, "Steps in which the learning rate rises.")
    mixed_precision: str | None = argument(
        None, "Default: what accelerate is configured to.", choices=["no", "bf16", "fp16"]
    )
    seed: int = argument(42, "Seed of weights, order, dropout and hashing.")
    logging_steps: int = argument(10, "Log the training loss every so many steps.")
    checkpointing_steps: str | None = argument(
        None, "Save a checkpoint every so many steps, or 'epoch'. Default: none."
    )
    save_total_limit: int | None = argument(2, "Checkpoints that are kept.")
    resume_from_checkpoint: str | None = argument(
        None, "Folder of a checkpoint, or 'last' for the last whole one of output_dir, if any."
    )
    with_tracking: bool = argument(False, "Report to trackers.")
    report_to: str = argument("all", "'tensorboard', 'wandb', …, or all that are installed.")
    push_to_hub: bool = argument(False, "Upload output_dir to the Hub at the end.")
    hub_model_id: str | None = argument(None, "Repository on the Hub. Default: by output_dir.")
    dry_run: bool = argument(False, DRY_RUN)

    def __post_init__(self):
        expand_home(self, "output_dir", "resume_from_checkpoint")
        check_choices(self)
        check_seed(self.seed)
        require_positive(
            self,
            *("per_device_train_batch_size", "per_device_eval_batch_size", "logging_steps"),
            *("gradient_accumulation_steps", "num_train_epochs", "max_train_steps"),
            *("learning_rate", "save_total_limit", "sequence_parallel_size"),
        )
        refuse_negative(self, "max_grad_norm", "weight_decay", "num_warmup_steps")
        if not self.with_tracking and self.report_to != "none":
            refuse_unused(self, "without with_tracking", "report_to")
        check_muon(self, "adamw")
        is_fp16 = self.mixed_precision == "fp16"
        check_optimizer_in_backward(self, is_fp16, "adamw", "adafactor")
        if self.optim == "adafactor":
            refuse_unused(self, "with optim='adafactor'", "adam_beta2")
        if self.lr_scheduler_type == "constant":
            refuse_unused(self, "with lr_scheduler_type='constant'", "num_warmup_steps")
        every = self.checkpointing_steps
        if every not in (None, "epoch") and not (str(every).isdigit() and int(str(every)) > 0):
            raise ValueError(
                f"checkpointing_steps={every}: give a number of steps, or 'epoch', or leave it out"
            )
        if self.dry_run:
            keep_nothing(self)
            self.with_tracking = False

    @property
    def steps_between_checkpoints(self) -> int | None:
        """Number of steps, None for checkpoints at the end of epochs or for none."""
        every = self.checkpointing_steps
        return int(every) if every not in (None, "epoch") else None


def keep_nothing(arguments: Any) -> None:
    """Let a dry run write to a folder that goes when its arguments go, and upload nothing."""
    arguments.output_dir = passing_folder(arguments)
    arguments.resume_from_checkpoint, arguments.push_to_hub = None, False


def move_token(arguments: TrainingArguments) -> None:
    """Move `hub_token` to the environment (HF_TOKEN), where the client of the Hub looks for it.

    The Trainer saves its arguments with the model and uploads that file.
    """
    if arguments.hub_token:
        os.environ["HF_TOKEN"] = arguments.hub_token
        arguments.hub_token = None

"""How the Accelerate loop trains, with the names of transformers' `run_clm_no_trainer.py`."""

from dataclasses import dataclass

from reformer_hf.training.data_arguments import argument, check_choices

_SCHEDULERS = [
    *("linear", "cosine", "cosine_with_restarts", "polynomial"),
    *("constant", "constant_with_warmup", "inverse_sqrt"),
]


@dataclass
class LoopArguments:
    """Optimizer, schedule, checkpoints and reports."""

    _argument_group_name = "training"

    output_dir: str = argument("outputs/train_clm_no_trainer", "Folder for all that is written.")
    per_device_train_batch_size: int = argument(8, "Rows of a process in a forward pass.")
    per_device_eval_batch_size: int = argument(8, "The same in an evaluation.")
    gradient_accumulation_steps: int = argument(1, "Forward passes in a step of the optimizer.")
    num_train_epochs: int = argument(3, "Passes over the rows.")
    max_train_steps: int | None = argument(None, "Steps; instead of num_train_epochs if given.")
    optim: str = argument("adamw", "The optimizer.", choices=["adamw", "adafactor"])
    learning_rate: float = argument(5e-5, "Highest learning rate.")
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

    def __post_init__(self):
        check_choices(self)
        for name in (
            *("per_device_train_batch_size", "per_device_eval_batch_size", "logging_steps"),
            *("gradient_accumulation_steps", "num_train_epochs", "max_train_steps"),
            *("learning_rate", "save_total_limit"),
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value}: must be above 0")
        if (self.max_grad_norm or 0) < 0:
            raise ValueError(f"max_grad_norm={self.max_grad_norm}: must be above 0, or 0 for none")
        every = self.checkpointing_steps
        if every not in (None, "epoch") and not (str(every).isdigit() and int(str(every)) > 0):
            raise ValueError(
                f"checkpointing_steps={every}: give a number of steps, or 'epoch', or leave it out"
            )

    @property
    def steps_between_checkpoints(self) -> int | None:
        """Number of steps, None for checkpoints at the end of epochs or for none."""
        every = self.checkpointing_steps
        return int(every) if every not in (None, "epoch") else None

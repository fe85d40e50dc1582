"""A few steps of a Trainer's run, to say how long all of it will take; nothing of them is kept."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import Subset
from transformers import Trainer, TrainerCallback, TrainerControl
from transformers.trainer_callback import DefaultFlowCallback, PrinterCallback, ProgressCallback
from transformers.trainer_utils import has_length

from reformer_hf.training.costs import mean_step_tokens
from reformer_hf.training.estimate import MEASURED_STEPS, PlannedStep, conclude
from reformer_hf.training.memory import MemoryWatch
from reformer_hf.training.optimizer_in_backward import OptimizerInBackward
from reformer_hf.training.pace import StepTimer
from reformer_hf.training.row_schedule import RowSchedule


class FewSteps(TrainerCallback):
    """Times the first steps of a run, and ends it before it evaluates or saves anything.

    It comes after the callbacks that ask for that.

    Args:
        timer: of the steps.
        steps: how many.
    """

    def __init__(self, timer: StepTimer, steps: int):
        self.timer, self.steps, self._tokens = timer, steps, 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.timer.begin()

    def on_step_end(self, args, state, control, **kwargs):
        tokens = state.num_input_tokens_seen - self._tokens
        self._tokens += tokens
        self.timer.end_step(tokens)
        control.should_evaluate = control.should_save = False
        control.should_training_stop = state.global_step >= min(self.steps, state.max_steps)

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_evaluate = control.should_save = False


def dry_run(
    trainer: Trainer,
    has_own_evaluation: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Train a few steps, evaluate a batch, save a checkpoint, and print what the run would cost.

    Where rows grow, the steps are of all lengths, with the shares that these have in the run.

    Args:
        trainer: as for the run; its model is changed. Its `output_dir` gets a checkpoint.
        has_own_evaluation: whether the evaluation at the end is not the Trainer's.
        clock: gives seconds.

    Returns:
        What :func:`conclude` does.
    """
    for callback in (ProgressCallback, PrinterCallback):
        trainer.pop_callback(callback)
    timer, memory = StepTimer(clock), MemoryWatch()
    trainer.args.eval_on_start = False
    schedule: RowSchedule | None = getattr(trainer, "row_schedule", None)
    measured_steps = MEASURED_STEPS
    if schedule is not None:
        trainer.row_schedule = schedule.sample()  # type: ignore[attr-defined]
        measured_steps = trainer.args.max_steps = trainer.row_schedule.max_steps  # type: ignore[attr-defined]
    trainer.add_callback(FewSteps(timer, measured_steps))
    trainer.train()
    if schedule is not None:
        trainer.row_schedule, trainer.state.max_steps = schedule, schedule.max_steps  # type: ignore[attr-defined]
    in_backward: OptimizerInBackward | None = getattr(trainer, "in_backward", None)
    gradients = None if in_backward is None else in_backward.gradient_bytes
    memory.after_steps(trainer.model, trainer.optimizer, gradients)
    evaluation = _evaluation_seconds(trainer, clock)
    checkpoint = _checkpoint_seconds(trainer, clock)
    minutes = getattr(trainer.args, "max_minutes", None)
    own = ["the evaluation at the end"] * has_own_evaluation
    return conclude(
        timer,
        memory.result(),
        planned_steps(trainer, timer.mean_tokens()),
        trainer.state.max_steps,
        evaluation,
        checkpoint,
        max_seconds=math.inf if minutes is None else 60 * minutes,
        final_evaluations=int(trainer.args.do_eval and not has_own_evaluation),
        left_out=[*own, "samples, predictions and uploads"],
        tell=print if trainer.is_world_process_zero() else lambda text: None,
    )


def reads_targets(model: Any) -> bool:
    """Say whether a model reads the labels, too, as the decoder of an encoder-decoder does."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def planned_steps(trainer: Trainer, timed_tokens: float) -> Iterator[PlannedStep]:
    """The steps that a Trainer will make, with the evaluations and checkpoints it is asked for.

    Args:
        trainer: after its first steps.
        timed_tokens: of a step, where the rows cannot be counted.
    """
    arguments, state = trainer.args, copy.copy(trainer.state)
    flow, epoch = DefaultFlowCallback(), _steps_of_an_epoch(trainer)
    schedule: RowSchedule | None = getattr(trainer, "row_schedule", None)
    rows, step_rows = trainer.train_dataset, trainer.get_total_train_batch_size(arguments)
    tokens = mean_step_tokens(rows, step_rows, epoch, reads_targets(trainer.model)) or timed_tokens
    for step in range(1, state.max_steps + 1):
        control = TrainerControl()
        state.global_step, state.epoch = step, step / epoch
        flow.on_step_end(arguments, state, control)
        if step % epoch == 0 or step == state.max_steps:
            flow.on_epoch_end(arguments, state, control)
        of_step = tokens if schedule is None else schedule.step_tokens(step - 1)
        yield PlannedStep(of_step, control.should_evaluate, control.should_save)


def _steps_of_an_epoch(trainer: Trainer) -> float:
    batches = trainer.get_train_dataloader()
    if not has_length(batches):
        return math.inf
    return max(1, math.ceil(len(batches) / trainer.args.gradient_accumulation_steps))


def _evaluation_seconds(trainer: Trainer, clock: Callable[[], float]) -> float | None:
    """Time a batch of the evaluation; None if there is none, or the rows have no length."""
    if not (trainer.args.do_eval and has_length(trainer.eval_dataset)):
        return None
    rows: Any = trainer.eval_dataset
    together = min(len(rows), trainer.args.eval_batch_size * trainer.args.world_size)
    start = clock()
    trainer.evaluate(Subset(rows, range(together)))  # type: ignore[arg-type]
    return (clock() - start) * math.ceil(len(rows) / together)


def _checkpoint_seconds(trainer: Trainer, clock: Callable[[], float]) -> float | None:
    """Time a checkpoint; None if none is asked for, or the disk does not take it."""
    saves = str(getattr(trainer.args.save_strategy, "value", trainer.args.save_strategy)) != "no"
    if not saves or trainer.args.world_size > 1:  # whose folders are not the same
        return None
    start = clock()
    try:
        trainer._save_checkpoint(trainer.model_wrapped, None)  # type: ignore[arg-type]
    except OSError:
        return None
    return clock() - start

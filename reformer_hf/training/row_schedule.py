"""Rows that grow with the steps of a run: how long those of each step are, and how many."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from reformer_hf.training.argument_checks import refuse_unused


@dataclass(frozen=True)
class RowSchedule:
    """How long the rows of each step are, and how many.

    Each row length gets an equal share of the tokens of the run, so many steps if its steps are
    small. `max_steps` alone decides where one ends, so a run that goes on finds its place.

    Args:
        row_lengths: tokens in a row, in order; none is shorter than the one before, and each
            divides the last one. A length that stands twice gets two shares.
        tokens_per_step: most tokens of a step in all processes, one number or one for each length.
            A step has at least one row.
        max_steps: steps of the run.

    Raises:
        ValueError: naming the field, its value and the fix.
    """

    row_lengths: Sequence[int]
    tokens_per_step: Sequence[int]
    max_steps: int

    def __post_init__(self):
        check_row_lengths(self.row_lengths, self.tokens_per_step)
        if self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps}: must be above 0")

    @cached_property
    def rows_per_step(self) -> list[int]:
        """Rows of a step in all processes, for each length."""
        given, count = list(self.tokens_per_step), len(self.row_lengths)
        budgets = given * count if len(given) == 1 else given
        pairs = zip(budgets, self.row_lengths, strict=True)
        return [max(1, budget // length) for budget, length in pairs]

    @cached_property
    def ends(self) -> list[int]:
        """For each length, the number of steps up to its last one."""
        pairs = zip(self.rows_per_step, self.row_lengths, strict=True)
        shares = list(accumulate(Fraction(1, rows * length) for rows, length in pairs))
        return [round(self.max_steps * share / shares[-1]) for share in shares]

    @property
    def phases(self) -> list[tuple[int, int, int]]:
        """Steps, rows of each step and tokens of each row, for each length."""
        steps = [end - start for start, end in zip([0, *self.ends], self.ends, strict=False)]
        return list(zip(steps, self.rows_per_step, self.row_lengths, strict=True))

    @property
    def rows(self) -> int:
        """Rows of the run."""
        return sum(steps * rows for steps, rows, _ in self.phases)

    def phase(self, step: int) -> int:
        """Which of the lengths a step has; the first step is 0."""
        return bisect_right(self.ends, step)

    def row_length(self, step: int) -> int:
        """Tokens in a row of a step; the first step is 0."""
        return self.row_lengths[self.phase(step)]

    def step_tokens(self, step: int) -> int:
        """Tokens of a step; the first step is 0."""
        return self.rows_per_step[self.phase(step)] * self.row_length(step)

    def tokens(self, steps: int) -> int:
        """Tokens of the first `steps` steps."""
        total = 0
        for count, rows, length in self.phases:
            total += min(steps, count) * rows * length
            steps = max(0, steps - count)
        return total

    def sample(self) -> "RowSchedule":
        """The schedule in few steps, of which each length has one or more, for a dry run."""
        shares = [Fraction(1, rows * length) for _, rows, length in self.phases]
        steps = 1 + math.ceil(sum(shares) / min(shares))
        return replace(self, max_steps=min(steps, self.max_steps))

    def slow_down(self, scheduler: Any) -> None:
        """Let a learning rate follow the tokens of the run, which steps have different numbers of.

        By the steps it would be near its end when the longest rows begin.

        Args:
            scheduler: of the optimizer, for the steps of the run; one that is no `LambdaLR` stays
                as it is.
        """
        if not isinstance(scheduler, LambdaLR):
            return
        total = self.tokens(self.max_steps)

        def by_tokens(factor: Callable[[Any], float], step: int) -> float:
            return factor(self.max_steps * self.tokens(step) / total)

        scheduler.lr_lambdas = [partial(by_tokens, factor) for factor in scheduler.lr_lambdas]

    def steps_for(self, tokens: float) -> int:
        """Steps that read so many tokens, as nearly as whole steps can; at least 1."""
        shares = [1 / (rows * length) for _, rows, length in self.phases]
        return max(1, round(tokens * sum(shares) / len(shares)))

    def record(self) -> dict[str, Any]:
        """What a run may not change when it goes on, as JSON values."""
        return {
            "row_lengths": list(self.row_lengths),
            "rows_per_step": self.rows_per_step,
            "max_steps": self.max_steps,
        }

    def __str__(self) -> str:
        return ", ".join(
            f"{steps:,} steps of {rows:,} rows of {length:,} tokens"
            for steps, rows, length in self.phases
        )


def check_row_lengths(
    row_lengths: Sequence[int] | None, tokens_per_step: Sequence[int] | None
) -> None:
    """Check the arguments of those names.

    Raises:
        ValueError: naming the field, its value and the fix.
    """
    if row_lengths is None:
        if tokens_per_step is not None:
            raise ValueError(
                f"tokens_per_step={tokens_per_step!r} has no effect without row_lengths: leave it "
                "out, or give row_lengths"
            )
        return
    if not row_lengths or min(row_lengths) < 2 or sorted(row_lengths) != list(row_lengths):
        raise ValueError(
            f"row_lengths={row_lengths!r}: give lengths above 1, each at least as long as the one "
            "before, such as 512 1024 2048 8192"
        )
    if unfit := [length for length in row_lengths if row_lengths[-1] % length]:
        raise ValueError(
            f"row_lengths={row_lengths!r}: {unfit[0]} does not divide {row_lengths[-1]}, and rows "
            "are cut into pieces of one length; give divisors of the last one"
        )
    if tokens_per_step is not None and (
        len(tokens_per_step) not in (1, len(row_lengths)) or min(tokens_per_step) < 1
    ):
        raise ValueError(
            f"tokens_per_step={tokens_per_step!r}: give one number above 0, or one for each of the "
            f"{len(row_lengths)} row_lengths"
        )


def choose_row_schedule(
    data: Any,
    training: Any,
    block_size: int,
    max_steps: int | None,
    processes: int,
    rows: int | None = None,
) -> RowSchedule | None:
    """Make the schedule that the arguments of a script describe.

    Args:
        data: with `row_lengths` and `tokens_per_step`.
        training: a dataclass with `per_device_train_batch_size` and `gradient_accumulation_steps`,
            which say how many tokens a step has if `tokens_per_step` does not, and
            `num_train_epochs`.
        block_size: tokens in a row of the data.
        max_steps: steps of the run; None, or below 1, where epochs decide.
        processes: that train, or their devices if each has several.
        rows: of the data; None if they are not known yet, which checks the arguments.

    Returns:
        None if rows do not grow.

    Raises:
        ValueError: if arguments do not fit together.
    """
    if data.row_lengths is None:
        return None
    if data.row_lengths[-1] != block_size:
        raise ValueError(
            f"row_lengths={data.row_lengths}: the last one must be block_size={block_size}, the "
            f"length of the rows that are cut; --row_lengths {block_size} keeps all rows that long"
        )
    refuse_epochs(training)
    tokens = data.tokens_per_step
    if tokens is None:
        batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
        tokens = [batch * processes * block_size]
    else:
        refuse_unused(training, "with tokens_per_step", "per_device_train_batch_size")
    if max_steps is None or max_steps < 1:
        read = (rows or 0) * block_size * training.num_train_epochs
        max_steps = RowSchedule(data.row_lengths, tokens, 1).steps_for(read)
    return RowSchedule(data.row_lengths, tokens, max_steps)


def refuse_epochs(training: Any) -> None:
    """Refuse what happens at the end of an epoch: a run whose rows grow has none.

    Args:
        training: arguments of the Trainer or of the loop.

    Raises:
        ValueError: naming the field.
    """
    for name in ("eval_strategy", "save_strategy", "logging_strategy", "checkpointing_steps"):
        if getattr(training, name, None) == "epoch":
            raise ValueError(
                f"{name}='epoch' with row_lengths, whose steps are not parted into epochs: let "
                "it happen every so many steps"
            )

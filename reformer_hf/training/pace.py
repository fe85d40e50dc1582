"""How fast the steps of a run are, and what that says of the rest of it."""

import math
import time
from collections.abc import Callable
from statistics import median

import torch
from tqdm.auto import tqdm

from reformer_hf.training.costs import describe_peak, duration
from reformer_hf.training.memory import peak_memory_bytes

WARM_UP_STEPS = 1
"""The first step also allocates, and makes the optimizer's state."""


class StepTimer:
    """Times the steps of a run, one by one, with all that lies between them.

    Args:
        clock: gives seconds.

    Attributes:
        seconds: of each step.
        tokens: of each step.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock, self._last = clock, math.nan
        self.seconds: list[float] = []
        self.tokens: list[int] = []

    def begin(self) -> None:
        """Note that the first step begins."""
        self._last = self._now()

    def end_step(self, tokens: int) -> None:
        """Note that a step has ended, and the next begins."""
        now = self._now()
        self.seconds.append(now - self._last)
        self.tokens.append(tokens)
        self._last = now

    def _now(self) -> float:
        if torch.cuda.is_initialized():  # it may be behind
            torch.cuda.synchronize()
        return self.clock()

    @property
    def warm(self) -> slice:
        """The steps after those that warm up; all if there are no others."""
        return slice(WARM_UP_STEPS if len(self.seconds) > WARM_UP_STEPS else 0, None)

    def mean_tokens(self) -> float:
        """Tokens of a step."""
        return sum(self.tokens[self.warm]) / len(self.tokens[self.warm])

    def step_seconds(self) -> float:
        """Seconds of a step in the median, which a pause such as an evaluation does not move."""
        return median(self.seconds[self.warm])

    def token_seconds(self) -> float:
        """Seconds of a token in training."""
        return sum(self.seconds[self.warm]) / max(1, sum(self.tokens[self.warm]))


class Pace:
    """Says once, after the first steps of a run, how long the others will take.

    Args:
        steps: that are timed, after one that warms up.
        timer: of the steps.
        tell: what is done with the line; None for nothing.
    """

    def __init__(
        self,
        steps: int = 10,
        timer: StepTimer | None = None,
        tell: Callable[[str], None] | None = tqdm.write,
    ):
        self.steps, self.timer, self.tell = steps, timer or StepTimer(), tell
        self.is_told = False

    def begin(self) -> None:
        """Note that the first step begins."""
        self.timer.begin()

    def end_step(
        self, tokens: int, step: int, max_steps: int, seconds_left: float = math.inf
    ) -> None:
        """Note that a step has ended, and tell if it is time.

        Args:
            tokens: of the step.
            step: of the run, those before a resumption included.
            max_steps: of the run.
            seconds_left: until its clock stops it.
        """
        if self.is_told:
            return
        self.timer.end_step(tokens)
        if len(self.timer.seconds) < WARM_UP_STEPS + self.steps:
            return
        self.is_told = True
        if self.tell is not None and step < max_steps:
            timer = self.timer
            self.tell(
                pace_line(step, max_steps, timer.step_seconds(), timer.mean_tokens(), seconds_left)
            )


def pace_line(
    step: int, max_steps: int, step_seconds: float, step_tokens: float, seconds_left: float
) -> str:
    """Say how long the rest of a run takes, evaluations and checkpoints left out."""
    seconds = (max_steps - step) * step_seconds
    rest = f"about {duration(seconds)} of steps to go"
    if seconds > seconds_left:
        last = step + math.ceil(seconds_left / step_seconds)
        rest = f"about {duration(seconds_left)} to go, to step {last:,} when max_minutes are over"
    speed = f"{step_tokens / step_seconds:,.0f} tokens/s"
    return f"Step {step:,} of {max_steps:,}: {rest}, {speed}, {describe_peak(peak_memory_bytes())}"

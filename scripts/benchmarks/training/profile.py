"""Where a training step of this package's Reformer spends its time, by stage.

Functions of the package are labelled from outside while the profiler runs. What happens in no
labelled function is `other`. A gradient belongs to the stage in which autograd recorded it.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import Any

from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

STAGE, PHASE = "stage: ", "phase: "
NODE = "autograd::engine::evaluate_function: "
ACCUMULATION = "torch::autograd::AccumulateGrad"
OTHER = "other"
PHASES = ("forward", "replay", "gradients")
MOST_STEPS = 3  # profiled; a step has tens of thousands of events

LABELLED = (
    ("hash", "reformer_hf.nn.attention", "LSHSelfAttention.hash"),
    ("sort", "reformer_hf.ops.attention", "sort_by_bucket"),
    ("sort", "reformer_hf.ops.attention", "keep_order"),
    ("sort", "reformer_hf.ops.chunk_scope", "_sort_layout"),
    ("windows", "reformer_hf.ops.attention", "segment_order"),
    ("windows", "reformer_hf.ops.chunk_scope", "_ring_order"),
    ("gather", "reformer_hf.ops.blockwise", "_Steps.queries"),
    ("gather", "reformer_hf.ops.blockwise", "_Steps.windows"),
    ("attend", "reformer_hf.ops.attention", "attend_blockwise"),
    ("attend", "reformer_hf.ops.chunk_scope", "attend_blockwise"),
    ("attend", "reformer_hf.ops.chunk_scope", "full_attention"),
    ("feed-forward", "reformer_hf.nn.feed_forward", "ChunkedFeedForward.forward"),
    ("norm", "reformer_hf.nn.layer_norm", "StreamLayerNorm.forward"),
    ("norm", "reformer_hf.ops.attention", "normalise_keys"),
    ("norm", "reformer_hf.ops.chunk_scope", "normalise_keys"),
    ("embedding", "torch.nn", "Embedding.forward"),
    ("embedding", "reformer_hf.models.layers", "ReformerHFEmbeddings.forward"),
    ("projections", "reformer_hf.nn.attention", "LSHSelfAttention._project"),
    ("projections", "reformer_hf.nn.attention", "LocalSelfAttention.project"),
    ("projections", "reformer_hf.nn.feed_forward", "OutputProjection.forward"),
    ("loss", "reformer_hf.models.language_model", "ReformerHFLMHead.forward"),
    ("loss", "reformer_hf.models.modeling_reformer_hf", "ReformerHFForCausalLM._loss"),
    ("reversal", "reformer_hf.nn.reversible", "ReversibleCoupling.couple"),
    ("reversal", "reformer_hf.nn.reversible", "_Step.invert"),
)
"""Stages, and the functions whose time is theirs, less that of labelled functions inside."""

STAGES = (*dict.fromkeys(stage for stage, _, _ in LABELLED), OTHER)


@contextmanager
def labelled(functions: Sequence[tuple[str, str, str]] = LABELLED) -> Iterator[list[str]]:
    """Label functions in a profile.

    Args:
        functions: stage, module, and name in it.

    Yields:
        Those that are not there, because the package has changed.
    """
    replaced: list[tuple[Any, str, Callable | None]] = []
    missing: list[str] = []
    for stage, module_name, path in functions:
        owner = import_module(module_name)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part, None)
        function = getattr(owner, name, None)
        if function is None:
            missing.append(f"{module_name}.{path}")
            continue
        replaced.append((owner, name, vars(owner).get(name)))  # None if it is inherited
        setattr(owner, name, _label(function, STAGE + stage))
    try:
        yield missing
    finally:
        for owner, name, function in replaced:
            if function is None:
                delattr(owner, name)
            else:
                setattr(owner, name, function)


def _label(function: Callable, label: str) -> Callable:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    return call


def profile_stages(
    forward: Callable[[], Tensor | None],
    backward: Callable[[Tensor | None], None] | None,
    finish: Callable[[], None],
    warmup: int,
    steps: int,
) -> dict:
    """Profile training steps.

    Args:
        forward: makes the loss.
        backward: takes it.
        finish: done after each step.
        warmup: steps before.
        steps: of which up to 3 are profiled.

    Returns:
        `stages`, for each the milliseconds of a step in each phase; `missing`, functions that were
        to be labelled; `plain_milliseconds` of a step without a profiler, and `steps`.
    """
    assert backward is not None
    steps = min(steps, MOST_STEPS)

    def step() -> None:
        with record_function(PHASE + "forward"):
            loss = forward()
        with record_function(PHASE + "gradients"):
            backward(loss)
        finish()

    for _ in range(warmup):
        step()
    start = time.perf_counter()
    step()
    plain = time.perf_counter() - start
    with labelled() as missing, profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
    spent = share_out(profiler.events() or [])
    return {
        "stages": [
            [stage, *(round(spent[stage, phase] / steps / 1e3, 3) for phase in PHASES)]
            for stage in STAGES
        ],
        "missing": missing,
        "plain_milliseconds": round(1000 * plain, 3),
        "steps": steps,
    }


def share_out(events: Sequence[FunctionEvent]) -> Counter[tuple[str, str]]:
    """Microseconds by stage and phase, of all events inside a labelled phase."""
    events = sorted(events, key=lambda event: event.time_range.start)
    recorded: dict[int, str] = {}
    spent: Counter[tuple[str, str]] = Counter()
    for event in events:
        outer = list(_upwards(event))
        phase = next((e.name.removeprefix(PHASE) for e in outer if e.name.startswith(PHASE)), None)
        if phase is None:
            continue
        stage = next((e.name.removeprefix(STAGE) for e in outer if e.name.startswith(STAGE)), None)
        if phase == "forward":
            # An operator that autograd records is the last to have the number of its gradient.
            recorded[event.sequence_nr] = stage or OTHER
        elif any(e.name == STAGE + "reversal" for e in outer):
            phase = "replay"
        if stage is None:
            node = next((e for e in outer if e.name.startswith(NODE)), None)
            stage = OTHER if node is None else _stage_of_gradient(node, recorded)
        spent[stage, phase] += event.self_cpu_time_total
    return spent


def _upwards(event: FunctionEvent | None) -> Iterator[FunctionEvent]:
    """An event and those around it, from the inside."""
    while event is not None:
        yield event
        event = event.cpu_parent


def _stage_of_gradient(node: FunctionEvent, recorded: dict[int, str]) -> str:
    if node.name.removeprefix(NODE) == ACCUMULATION:
        return OTHER
    return recorded.get(node.sequence_nr, OTHER)

"""Where a training step of this package's Reformer spends its time, by stage.

Functions of the package are labelled from outside while the profiler runs. What happens in no
labelled function is `other`. A gradient belongs to the stage in which autograd recorded it.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from scripts.benchmarks.common.profiling import (
    OTHER,
    STAGE,
    innermost,
    labelled_stages,
    outer_names,
)

PHASE = "phase: "
NODE = "autograd::engine::evaluate_function: "
ACCUMULATION = "torch::autograd::AccumulateGrad"
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
    ("attend", "reformer_hf.ops.chunk_scope", "full_attention"),
    ("feed-forward", "reformer_hf.nn.feed_forward", "ChunkedSubLayer.forward"),
    ("norm", "reformer_hf.nn.layer_norm", "StreamLayerNorm.forward"),
    ("norm", "reformer_hf.ops.attention", "normalise_keys"),
    ("norm", "reformer_hf.ops.chunk_scope", "normalise_keys"),
    ("embedding", "torch.nn", "Embedding.forward"),
    ("embedding", "reformer_hf.models.layers", "ReformerHFEmbeddings.forward"),
    ("projections", "reformer_hf.nn.self_attention", "SelfAttention.project_input"),
    ("projections", "reformer_hf.nn.feed_forward", "OutputProjection.forward"),
    ("loss", "reformer_hf.models.language_model", "ReformerHFLMHead.forward"),
    ("loss", "reformer_hf.models.language_model", "LanguageModelMixin._predict"),
    ("reversal", "reformer_hf.nn.reversible", "ReversibleCoupling.couple"),
    ("reversal", "reformer_hf.nn.reversible", "_Step.invert"),
)
"""Stages, and the functions whose time is theirs, less that of labelled functions inside."""

STAGES = (*dict.fromkeys(stage for stage, _, _ in LABELLED), OTHER)


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
    with (
        labelled_stages(LABELLED) as missing,
        profile(activities=[ProfilerActivity.CPU]) as profiler,
    ):
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
    recorded: dict[int, str] = {}
    spent: Counter[tuple[str, str]] = Counter()
    for event in sorted(events, key=lambda event: event.time_range.start):
        phase, stage = innermost(event, PHASE), innermost(event, STAGE)
        if phase is None:
            continue
        if phase == "forward":
            # An operator that autograd records is the last to have the number of its gradient.
            recorded[event.sequence_nr] = stage or OTHER
        elif STAGE + "reversal" in outer_names(event):
            phase = "replay"
        spent[stage or _stage_of_gradient(event, recorded), phase] += event.self_cpu_time_total
    return spent


def _stage_of_gradient(event: FunctionEvent | None, recorded: dict[int, str]) -> str:
    """The stage that recorded the gradient which an event computes."""
    while event is not None and not event.name.startswith(NODE):
        event = event.cpu_parent
    if event is None or event.name == NODE + ACCUMULATION:
        return OTHER
    return recorded.get(event.sequence_nr, OTHER)

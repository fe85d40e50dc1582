"""Where a decode step of this package's Reformer spends its operator calls and its time."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from reformer_hf import ReformerHFForCausalLM
from scripts.benchmarks.common.peers import Ours
from scripts.benchmarks.common.tables import describe_machine, short, table

OPERATOR = "aten::"
PART = "part: "
OUTSIDE = "outside the layers"
SUB_LAYERS = ("attention", "feed_forward")
COUPLING = "sums of the streams"
TOP_OPERATORS = 15


class _Span:
    """A label in the profile between a module's two hooks."""

    def __init__(self, label: str):
        self.label = PART + label

    def open(self, *_) -> None:
        self.record = record_function(self.label)
        self.record.__enter__()

    def close(self, *_) -> None:
        self.record.__exit__(None, None, None)


@contextmanager
def labelled_parts(model: ReformerHFForCausalLM) -> Iterator[None]:
    """Label the layers and their sub-layers in a profile by the kind of the layer."""
    parts: list[tuple[nn.Module, str]] = []
    for kind, layer in zip(model.config.attn_layers, model.reformer.encoder.layers, strict=True):
        parts.append((layer, f"{kind} layer, {COUPLING}"))
        parts += [(getattr(layer, name), f"{kind} layer, {name}") for name in SUB_LAYERS]
    handles = []
    for module, label in parts:
        span = _Span(label)
        handles += [
            module.register_forward_pre_hook(span.open),
            module.register_forward_hook(span.close),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def profile_steps(subject: Ours, token: torch.Tensor, steps: int) -> dict:
    """Profile decode steps after the cache was filled and warmed up.

    Args:
        subject: with a filled cache.
        token: token ids of each step, (batch, 1).
        steps: decode steps.

    Returns:
        `parts` (label, operator calls, milliseconds in them) and `operators` (name, calls,
        milliseconds without those of inner operators), all per step, and `layers`, the number of
        layers by kind.
    """
    with labelled_parts(subject.model), profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            subject.forward(token)
    calls: Counter[str] = Counter()
    microseconds: Counter[str] = Counter()
    for event in profiler.events() or []:
        if not event.name.startswith(OPERATOR) or _has_outer_operator(event):
            continue
        label = _part_of(event)
        calls[label] += 1
        microseconds[label] += event.cpu_time_total
    operators = [e for e in profiler.key_averages() if e.key.startswith(OPERATOR)]
    operators.sort(key=lambda entry: entry.self_cpu_time_total, reverse=True)
    return {
        "steps": steps,
        "layers": Counter(subject.model.config.attn_layers),
        "parts": [(p, calls[p] / steps, microseconds[p] / steps / 1e3) for p in sorted(calls)],
        "operators": [
            (entry.key, entry.count / steps, entry.self_cpu_time_total / steps / 1e3)
            for entry in operators[:TOP_OPERATORS]
        ],
    }


def _has_outer_operator(event) -> bool:
    """Whether another operator called this one."""
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith(OPERATOR):
            return True
        parent = parent.cpu_parent
    return False


def _part_of(event) -> str:
    """The innermost labelled part that an operator was called in."""
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith(PART):
            return parent.name.removeprefix(PART)
        parent = parent.cpu_parent
    return OUTSIDE


def render_profile(header: dict, context: int, profiled: dict) -> str:
    """The tables of profile.md.

    Args:
        header: as of results.json.
        context: tokens in the cache.
        profiled: what `profile_steps` returned.

    Returns:
        Markdown.
    """
    parts = []
    for label, calls, milliseconds in profiled["parts"]:
        count = profiled["layers"].get(label.partition(" layer, ")[0], 1)
        parts.append([label, str(count), f"{calls / count:,.1f}", f"{milliseconds / count:,.3f}"])
    operators = [
        [name, f"{calls:,.1f}", f"{milliseconds:,.3f}"]
        for name, calls, milliseconds in profiled["operators"]
    ]
    total_calls, total_time = (sum(part[i] for part in profiled["parts"]) for i in (1, 2))
    lines = [
        f"# One decode step of the band scope at {short(context)} tokens of context",
        "",
        describe_machine(header),
        "",
        f"{total_calls:,.1f} operator calls from Python per step, {total_time:,.3f} ms in them; "
        f"the mean of {profiled['steps']} steps, with the profiler's own overhead.",
        "",
        *table(["part", "of them", "operator calls in one", "ms in its operators"], parts),
        f"The {len(operators)} operators that take longest, without the time of operators that "
        "they call:",
        "",
        *table(["operator", "calls per step", "ms per step"], operators),
    ]
    return "\n".join(lines).rstrip() + "\n"

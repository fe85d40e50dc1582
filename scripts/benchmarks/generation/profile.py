"""Where a decode step of this package's Reformer spends its operator calls and its time."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from reformer_hf import ReformerHFForCausalLM
from scripts.benchmarks.common.peers import Ours
from scripts.benchmarks.common.profiling import innermost, labelled, outer_names
from scripts.benchmarks.common.tables import describe_machine, short, table

OPERATOR = "aten::"
PART = "part: "
OUTSIDE = "outside the layers"
SUB_LAYERS = ("attention", "feed_forward")
COUPLING = "sums of the streams"
TOP_OPERATORS = 15


@contextmanager
def labelled_parts(model: ReformerHFForCausalLM) -> Iterator[None]:
    """Label the layers and their sub-layers in a profile by the kind of the layer."""
    parts: list[tuple[nn.Module, str]] = []
    for kind, layer in zip(model.config.attn_layers, model.reformer.encoder.layers, strict=True):
        parts.append((layer, f"{kind} layer, {COUPLING}"))
        parts += [(getattr(layer, name), f"{kind} layer, {name}") for name in SUB_LAYERS]
    with ExitStack() as labels:
        for module, label in parts:
            forward = labelled(module.forward, PART + label)
            labels.enter_context(patch.object(module, "forward", forward))
        yield


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
        operators_around = [name for name in outer_names(event) if name.startswith(OPERATOR)]
        if len(operators_around) != 1 or not event.name.startswith(OPERATOR):
            continue  # no operator, or called by one
        label = innermost(event, PART) or OUTSIDE
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

"""Where a decoding step of this package's model spends the time of host and device, by part.

Functions of the package are labelled from outside while the profiler runs; what happens in none of
them is `other`. A kernel belongs to the function that launched it.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from scripts.benchmarks.common.peers import ModelShape
from scripts.benchmarks.common.profiling import OTHER, STAGE, innermost, labelled_stages
from scripts.benchmarks.gpu.arguments import GpuBenchmarkArguments, GpuCase
from scripts.benchmarks.gpu.models import autocast, prefilled, synchronize

MOST_STEPS = 10
TOP_OPERATORS = 15
PARTS = (
    ("attention to candidates", "reformer_hf.nn.past.lsh_band", "attend_candidates"),
    ("rings", "reformer_hf.nn.past.lsh_band", "push_places"),
    ("hash", "reformer_hf.nn.attention", "LSHSelfAttention._hash_all"),
    ("local attention", "reformer_hf.nn.past.distance", "DistancePast.decode"),
    ("projections", "reformer_hf.nn.self_attention", "SelfAttention.project_input"),
    ("projections", "reformer_hf.nn.feed_forward", "OutputProjection.forward"),
    ("feed-forward", "reformer_hf.nn.feed_forward", "ChunkedSubLayer.forward"),
    ("norm", "reformer_hf.nn.layer_norm", "StreamLayerNorm.forward"),
    ("embedding", "reformer_hf.models.layers", "ReformerHFEmbeddings.forward"),
    ("head", "reformer_hf.models.language_model", "ReformerHFLMHead.forward"),
)
"""Parts, and the functions whose time is theirs, less that of labelled functions inside."""


class Spent(NamedTuple):
    """What a part or an operator takes in a step.

    Attributes:
        name: of the part or operator.
        kernels: launched.
        host: milliseconds of the host.
        device: milliseconds of the kernels.
    """

    name: str
    kernels: float = 0.0
    host: float = 0.0
    device: float = 0.0


@torch.no_grad()
def profile_decode(case: GpuCase, arguments: GpuBenchmarkArguments, shape: ModelShape) -> dict:
    """Profile decoding steps after a context.

    Returns:
        `parts` and the largest `operators`, each as `Spent`; `steps` that they are the mean of, and
        `missing`, functions that were to be labelled.
    """
    device = torch.device(arguments.device)
    steps = min(arguments.tokens, MOST_STEPS)
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with autocast(device):
        subject, token = prefilled(case, arguments, shape)
        for _ in range(arguments.warmup):
            subject.forward(token)
        with labelled_stages(PARTS) as missing, profile(activities=activities) as profiler:
            for _ in range(steps):
                with record_function(STAGE + OTHER):
                    subject.forward(token)
            synchronize(device)
    parts, operators = share_out(profiler.events() or [], steps)
    return {
        "steps": steps,
        "missing": missing,
        "parts": parts,
        "operators": operators[:TOP_OPERATORS],
    }


def share_out(events: Iterable[FunctionEvent], steps: int) -> tuple[list[Spent], list[Spent]]:
    """What parts and operators take in a step, those first that take the device longest."""
    parts: dict[str, Spent] = {}
    operators: dict[str, Spent] = {}
    for event in events:
        # Events of the device are those of the host's kernels once more.
        if event.device_type != DeviceType.CPU or (part := innermost(event, STAGE)) is None:
            continue
        _add(parts, part, event, steps)
        if not event.name.startswith(STAGE):
            _add(operators, event.name, event, steps)

    def longest_first(spent: dict[str, Spent]) -> list[Spent]:
        return sorted(spent.values(), key=lambda one: (-one.device, -one.host))

    return longest_first(parts), longest_first(operators)


def _add(spent: dict[str, Spent], name: str, event: FunctionEvent, steps: int) -> None:
    _, kernels, host, device = spent.get(name, Spent(name))
    spent[name] = Spent(
        name,
        kernels + len(event.kernels) / steps,
        host + event.self_cpu_time_total / steps / 1e3,
        device + event.self_device_time_total / steps / 1e3,
    )

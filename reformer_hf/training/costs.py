"""What a run costs: its time, tokens and memory, and how they are written for people."""

from collections.abc import Mapping
from typing import Any

from reformer_hf.training.data.collator import IGNORE_INDEX
from reformer_hf.training.memory import peak_device_bytes, peak_memory_bytes

_SAMPLE = 64  # rows whose lengths are looked at


def run_costs(
    tokens: int, seconds: float, step_seconds: float, peak_bytes: int | None = None
) -> dict[str, Any]:
    """The costs that a run records, by name.

    Args:
        tokens: that were trained on.
        seconds: of all training, evaluations and checkpoints included.
        step_seconds: of its steps alone.
        peak_bytes: resident memory that a process of this run is known to have had.

    Returns:
        `seconds`, `step_seconds`, `tokens`, `tokens_per_second` of the steps (None if nothing was
        timed or counted), `peak_memory_bytes` (None where the system does not say) and, of a GPU,
        `peak_device_memory_bytes`.
    """
    costs = {
        "seconds": seconds,
        "step_seconds": step_seconds,
        "tokens": tokens,
        "tokens_per_second": round(tokens / step_seconds, 1) if tokens and step_seconds else None,
        "peak_memory_bytes": max(peak_memory_bytes() or 0, peak_bytes or 0) or None,
    }
    on_device = peak_device_bytes()
    return costs if on_device is None else costs | {"peak_device_memory_bytes": on_device}


def describe_costs(costs: Mapping[str, Any]) -> str:
    """Say what :func:`run_costs` returns in one line."""
    speed = costs["tokens_per_second"]
    parts = [f"{costs['tokens']:,} tokens in {duration(costs['seconds'])}"]
    parts += [] if speed is None else [f"{speed:,.0f} tokens/s"]
    return ", ".join([*parts, describe_peak(costs["peak_memory_bytes"])])


def describe_peak(peak_bytes: int | None) -> str:
    """Say how much memory a process has taken, and how much of a GPU if it has used one."""
    on_device = peak_device_bytes()
    said = "peak memory " + ("unknown" if peak_bytes is None else size(peak_bytes))
    return said if on_device is None else f"{said}, {size(on_device)} on the device"


def count_tokens(batch: Mapping[str, Any], with_targets: bool = False) -> int:
    """Tokens that a model reads of a batch, (batch, seq), without padding.

    Args:
        batch: with `input_ids`, and `attention_mask` where there is padding.
        with_targets: also those of its `labels`, which the decoder of an encoder-decoder reads.
    """
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    read = int(mask.sum()) if mask is not None else 0 if ids is None else ids.numel()
    return read + (int((batch["labels"] != IGNORE_INDEX).sum()) if with_targets else 0)


def mean_step_tokens(
    rows: Any, step_rows: int, steps_of_an_epoch: float, with_targets: bool = False
) -> float | None:
    """Tokens of a step in the mean, by rows that are evenly spread over all of them.

    Args:
        rows: with `input_ids`; blank ones of `FilledRows` do not count.
        step_rows: rows of a step, which may lack some at the end of an epoch.
        steps_of_an_epoch: all steps that see a row once.
        with_targets: also those of the `labels`.

    Returns:
        None if the rows have no length or no `input_ids`.
    """
    rows = getattr(rows, "rows", rows)
    columns = ("input_ids", "labels") if with_targets else ("input_ids",)
    try:
        count = min(_SAMPLE, len(rows))
        read = [rows[index * len(rows) // count] for index in range(count)]
        tokens = sum(len(row[name]) for row in read for name in columns) / count
    except (TypeError, KeyError, ZeroDivisionError):
        return None
    return tokens * min(step_rows, len(rows) / steps_of_an_epoch)


def duration(seconds: float) -> str:
    """Write a time in seconds, in minutes or, from two of them on, in hours.

    >>> duration(0.25), duration(90), duration(9000)
    ('0.25 seconds', '1.5 minutes', '2.5 hours')
    """
    if seconds < 60:
        return f"{seconds:.2g} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def size(count: float) -> str:
    """Write a number of bytes.

    >>> size(3 * 2**20), size(3 * 2**29)
    ('3.0 MiB', '1.50 GiB')
    """
    return f"{count / 2**20:.1f} MiB" if count < 2**28 else f"{count / 2**30:.2f} GiB"

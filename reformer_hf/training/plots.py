"""The loss curve of a run, as CSV and PNG."""

import csv
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

_LOSSES = {"train": "loss", "eval": "eval_loss"}


def columns_in(unit: str) -> tuple[str, ...]:
    """Names of the columns of `loss_curve.csv`, with losses in bits per `byte` or `token`."""
    losses = (f"train_bits_per_{unit}", f"eval_bits_per_{unit}")
    return ("step", "seconds", *losses, "learning_rate")


def loss_curve(
    log_history: Sequence[Mapping], tokens_are_bytes: bool = True
) -> tuple[str, list[dict]]:
    """Turn the Trainer's log into rows, losses in bits; what is not known is None.

    The loss is per token. An evaluation that counted the bytes of the tokens says how many bytes a
    token has.

    Args:
        log_history: the Trainer's log.
        tokens_are_bytes: whether they are, where no evaluation counted them.

    Returns:
        The unit, `byte` or `token`, and rows with the columns of :func:`columns_in`.
    """
    counted = [entry for entry in log_history if entry.get("eval_bytes")]
    unit = "byte" if counted or tokens_are_bytes else "token"
    scale = counted[-1]["eval_bytes"] / counted[-1]["eval_tokens"] if counted else 1.0
    rows = []
    for entry in log_history:
        row = {column: entry.get(column) for column in columns_in(unit)}
        losses = {name: entry[key] for name, key in _LOSSES.items() if key in entry}
        for name, loss in losses.items():
            row[f"{name}_bits_per_{unit}"] = loss / math.log(2) / scale
        if losses:
            rows.append(row)
    return unit, rows


def write_curves(
    log_history: Sequence[Mapping],
    directory: Path,
    title: str = "Loss",
    references: Mapping[str, float] | None = None,
    tokens_are_bytes: bool = True,
) -> None:
    """Write `loss_curve.csv` and `loss_curve.png`; see :func:`loss_curve`."""
    unit, rows = loss_curve(log_history, tokens_are_bytes)
    with (directory / "loss_curve.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns_in(unit))
        writer.writeheader()
        writer.writerows(rows)
    plot_loss_curve(rows, unit, directory / "loss_curve.png", references or {}, title)


def plot_loss_curve(
    rows: Sequence[Mapping], unit: str, path: Path, references: Mapping[str, float], title: str
) -> None:
    """Draw training and held-out losses over the steps.

    Args:
        rows: of :func:`loss_curve`.
        unit: of their losses.
        path: a PNG file.
        references: names and values of horizontal lines for scale.
        title: of the figure.
    """
    # A figure of its own, without pyplot: no display and no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, style, label in (("train", "-", "training"), ("eval", "o-", "held out")):
        points = [
            (row["step"], row[f"{name}_bits_per_{unit}"])
            for row in rows
            if row[f"{name}_bits_per_{unit}"] is not None
        ]
        axes.plot(*zip(*points, strict=True) if points else ([], []), style, label=label)
    for (label, value), style in zip(references.items(), cycle((":", "--", "-.")), strict=False):
        axes.axhline(value, color="grey", linestyle=style, label=f"{label}: {value:.2f}")
    axes.set(xlabel="step", ylabel=f"bits per {unit}", title=title, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)

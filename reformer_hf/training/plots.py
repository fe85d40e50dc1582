"""The loss curve of a run, as CSV and PNG."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

COLUMNS = ("step", "seconds", "train_bits_per_byte", "eval_bits_per_byte", "learning_rate")


def loss_curve(log_history: Sequence[Mapping]) -> list[dict]:
    """Turn the Trainer's log into rows of `COLUMNS`, losses in bits; what is not known is None.

    The loss is per token. An evaluation that counted the bytes of the tokens says how many bytes a
    token has; otherwise the tokens are bytes, but for the few ends of documents.
    """
    bytes_per_token = 1.0
    for entry in log_history:
        if entry.get("eval_bytes"):
            bytes_per_token = entry["eval_bytes"] / entry["eval_tokens"]
    rows = []
    for entry in log_history:
        row = {column: entry.get(column) for column in COLUMNS}
        for name, key in (("train", "loss"), ("eval", "eval_loss")):
            if key in entry:
                row[f"{name}_bits_per_byte"] = entry[key] / math.log(2) / bytes_per_token
        if row["train_bits_per_byte"] is not None or row["eval_bits_per_byte"] is not None:
            rows.append(row)
    return rows


def write_curves(
    log_history: Sequence[Mapping],
    directory: Path,
    title: str = "Loss",
    references: Mapping[str, float] | None = None,
) -> None:
    """Write `loss_curve.csv` and `loss_curve.png`."""
    write_loss_curve_csv(log_history, directory / "loss_curve.csv")
    plot_loss_curve(log_history, directory / "loss_curve.png", references or {}, title)


def write_loss_curve_csv(log_history: Sequence[Mapping], path: Path) -> None:
    """Write the rows of :func:`loss_curve`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(loss_curve(log_history))


def plot_loss_curve(
    log_history: Sequence[Mapping], path: Path, references: Mapping[str, float], title: str
) -> None:
    """Draw training and held-out bits per byte over the steps.

    Args:
        log_history: the Trainer's log.
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
    rows = loss_curve(log_history)
    for name, style, label in (("train", "-", "training"), ("eval", "o-", "held out")):
        points = [
            (row["step"], row[f"{name}_bits_per_byte"])
            for row in rows
            if row[f"{name}_bits_per_byte"] is not None
        ]
        axes.plot(*zip(*points, strict=True) if points else ([], []), style, label=label)
    for (label, value), style in zip(references.items(), (":", "--", "-.") * 2, strict=False):
        axes.axhline(value, color="grey", linestyle=style, label=f"{label}: {value:.2f}")
    axes.set(xlabel="step", ylabel="bits per byte", title=title, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)

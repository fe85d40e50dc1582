"""The loss curve of a run, as CSV and PNG."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path


def loss_unit(
    log_history: Sequence[Mapping], bytes_per_token: float | None = None
) -> tuple[str, float]:
    """What losses are measured by: `byte` or `token`, and how many of them a token is.

    The loss is per token. An evaluation that counted the bytes of the tokens says how many bytes a
    token has.

    Args:
        log_history: the Trainer's log.
        bytes_per_token: where no evaluation says it; None if it is not known.
    """
    for entry in log_history:
        if entry.get("eval_bytes"):
            bytes_per_token = entry["eval_bytes"] / entry["eval_tokens"]
    return ("token", 1.0) if bytes_per_token is None else ("byte", bytes_per_token)


def loss_curve(
    log_history: Sequence[Mapping], bytes_per_token: float | None = None
) -> tuple[list[str], list[dict]]:
    """Turn the Trainer's log into rows, losses in bits; what is not known is None.

    Args:
        log_history: the Trainer's log.
        bytes_per_token: as for :func:`loss_unit`.

    Returns:
        The names of the columns, and the rows.
    """
    unit, size = loss_unit(log_history, bytes_per_token)
    train, held_out = f"train_bits_per_{unit}", f"eval_bits_per_{unit}"
    columns = ["step", "seconds", train, held_out, "learning_rate"]
    rows = []
    for entry in log_history:
        row = {column: entry.get(column) for column in columns}
        for name, key in ((train, "loss"), (held_out, "eval_loss")):
            if key in entry:
                row[name] = entry[key] / math.log(2) / size
        if row[train] is not None or row[held_out] is not None:
            rows.append(row)
    return columns, rows


def write_curves(
    log_history: Sequence[Mapping],
    directory: Path,
    title: str = "Loss",
    references: Mapping[str, float] | None = None,
    bytes_per_token: float | None = None,
) -> None:
    """Write `loss_curve.csv` and `loss_curve.png`; see :func:`plot_loss_curve`."""
    write_loss_curve_csv(log_history, directory / "loss_curve.csv", bytes_per_token)
    path = directory / "loss_curve.png"
    plot_loss_curve(log_history, path, references or {}, title, bytes_per_token)


def write_loss_curve_csv(
    log_history: Sequence[Mapping], path: Path, bytes_per_token: float | None = None
) -> None:
    """Write the rows of :func:`loss_curve`."""
    columns, rows = loss_curve(log_history, bytes_per_token)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def plot_loss_curve(
    log_history: Sequence[Mapping],
    path: Path,
    references: Mapping[str, float],
    title: str,
    bytes_per_token: float | None = None,
) -> None:
    """Draw training and held-out losses over the steps, in bits per byte or else per token.

    Args:
        log_history: the Trainer's log.
        path: a PNG file.
        references: names and values of horizontal lines for scale.
        title: of the figure.
        bytes_per_token: as for :func:`loss_unit`.
    """
    # A figure of its own, without pyplot: no display and no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    columns, rows = loss_curve(log_history, bytes_per_token)
    for name, style, label in (
        (columns[2], "-", "training"),
        (columns[3], "o-", "held out"),
    ):
        points = [(row["step"], row[name]) for row in rows if row[name] is not None]
        axes.plot(*zip(*points, strict=True) if points else ([], []), style, label=label)
    unit, _ = loss_unit(log_history, bytes_per_token)
    for (label, value), style in zip(references.items(), (":", "--", "-.") * 2, strict=False):
        axes.axhline(value, color="grey", linestyle=style, label=f"{label}: {value:.2f}")
    axes.set(xlabel="step", ylabel=f"bits per {unit}", title=title, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)

"""Draw one round of LSH attention: hash, sort, band, combine.

    python -m scripts.tools.draw_lsh_round

Sixteen vectors of two dimensions go through the package's own functions; nothing is sketched. It
writes `docs/pictures/lsh_round.png`.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle
from torch import Tensor

from reformer_hf.ops.hashing import hash_vectors, sample_rotations
from reformer_hf.ops.reference import attend, band_counts, normalise_keys
from reformer_hf.ops.sorting import sort_by_bucket

SEQ, BUCKETS, ROUNDS, WINDOW = 16, 4, 2, 3
INPUT_SEED, HASH_SEED, QUERY = 122, 9, 13
COLOURS = ("#4477AA", "#EE6677", "#228833", "#BFA21F")
HASH_NOTE = "the cell of argmax([xR; −xR]); each round draws an R of its own"
BAND_NOTE = """key
white dot: the own place, which counts only where no other is seen
pale: the same bucket, but outside the band"""
COMBINE_NOTE = """numbers: probabilities. A round's weight is the softmax
over rounds of its log-sum-exp. Output: their weighed sum."""
INK, FAINT = "#222222", "#E8E8E8"


def vectors() -> Tensor:
    """The queries, (seq, 2): directions at random, lengths from 0.55 to 1."""
    generator = torch.Generator().manual_seed(INPUT_SEED)
    angles = 2 * torch.pi * torch.rand(SEQ, generator=generator)
    lengths = 0.55 + 0.45 * torch.rand(SEQ, generator=generator)
    return torch.stack([angles.cos(), angles.sin()], dim=1) * lengths.unsqueeze(1)


def hash_places(queries: Tensor) -> Tensor:
    """The bucket of each vector in each round, (rounds, seq)."""
    rotations = sample_rotations(HASH_SEED, 1, 2, ROUNDS, BUCKETS)
    return hash_vectors(queries[None, None], rotations, BUCKETS)[0, 0]


def weigh_rounds(queries: Tensor, buckets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each round shows, what each round weighs, and the sum.

    Returns:
        Probabilities within each round, (rounds, query, key); weights of the rounds, (rounds,
        query); probabilities over all rounds, (query, key).
    """
    rows, documents, key = buckets.tolist(), [0] * len(queries), normalise_keys(queries)
    counts = band_counts(rows, documents, WINDOW, 0)
    together = attend(queries, key, queries, counts, self_mask=True)[1]
    shown = [band_counts([row], documents, WINDOW, 0) for row in rows]
    alone = [attend(queries, key, queries, seen, self_mask=True)[1] for seen in shown]
    # A key that two rounds show has its probability from both in equal parts.
    share = together / counts.clamp(min=1)
    others = 1 - torch.eye(len(queries))
    weights = [(share * seen * others).sum(dim=1) for seen in shown]
    return torch.stack(alone), torch.stack(weights), together


def draw_cells(axis: Axes, colours: list[str], labels: list[int], y: float) -> None:
    """A strip of tokens as squares, each with its place in the row."""
    for x, (colour, label) in enumerate(zip(colours, labels, strict=True)):
        axis.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, color=colour))
        axis.text(x, y, str(label), ha="center", va="center", color="white", fontsize=9)


def draw_hash(axis: Axes, queries: Tensor, buckets: Tensor) -> None:
    """The plane cut into buckets, and the tokens in it."""
    angles = torch.linspace(0, 2 * torch.pi, 1441)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    cells = hash_places((circle[1:] + circle[:-1]) / 2)[0]
    for bucket, colour in enumerate(COLOURS):
        inside = (cells == bucket).tolist()
        for start in [i for i, found in enumerate(inside) if found and not inside[i - 1]]:
            stop = start
            while inside[stop % len(inside)]:
                stop += 1
            arc = circle[[i % 1440 for i in range(start, stop + 1)]].tolist()
            axis.add_patch(Polygon([(0, 0), *arc], color=colour, alpha=0.22, linewidth=0))
            middle = 1.34 * circle[(start + stop) // 2 % 1440]
            x, y = middle[0].item(), 0.88 * middle[1].item()
            axis.text(x, y, f"bucket {bucket}", color=colour, ha="center", va="center")
    points = queries.tolist()
    for place, ((x, y), bucket) in enumerate(zip(points, buckets[0].tolist(), strict=True)):
        axis.plot(x, y, "o", color=COLOURS[bucket], markersize=15)
        axis.text(x, y, str(place), ha="center", va="center", color="white", fontsize=9)
    axis.text(0, -1.68, HASH_NOTE, color=INK, ha="center")
    axis.set(xlim=(-1.7, 1.7), ylim=(-1.75, 1.45), aspect="equal")
    axis.axis("off")


def draw_sort(axis: Axes, buckets: Tensor, order: list[int]) -> None:
    """The row, and the same tokens by (bucket, place)."""
    colours = [COLOURS[bucket] for bucket in buckets[0].tolist()]
    draw_cells(axis, colours, list(range(SEQ)), 3.0)
    draw_cells(axis, [colours[place] for place in order], order, 0.0)
    for rank, place in enumerate(order):
        axis.plot([place, rank], [2.45, 0.55], color=colours[place], linewidth=1.5, alpha=0.8)
    axis.text(-0.5, 3.75, "order of the row", color=INK)
    axis.text(-0.5, -0.95, "order of round 0: by bucket, then by place", color=INK)
    axis.set(xlim=(-0.7, SEQ - 0.3), ylim=(-1.9, 4.4))
    axis.axis("off")


def draw_band(axis: Axes, buckets: Tensor, order: list[int]) -> None:
    """Which keys each query sees, both in sorted order."""
    seen = band_counts(buckets[:1].tolist(), [0] * SEQ, WINDOW, 0)[order][:, order].tolist()
    by_rank = [int(buckets[0, place]) for place in order]
    for query, row in enumerate(seen):
        for key, visible in enumerate(row):
            same = by_rank[query] == by_rank[key]
            colour = COLOURS[by_rank[query]] if visible or same else FAINT
            alpha = 1.0 if visible else 0.18 if same else 0.5
            square = Rectangle((key - 0.46, query - 0.46), 0.92, 0.92, alpha=alpha, linewidth=0)
            square.set_facecolor(colour)
            axis.add_patch(square)
            if query == key:
                axis.plot(key, query, "o", color="white", markersize=4)
    axis.set(xlim=(-0.6, SEQ - 0.4), ylim=(SEQ - 0.4, -0.6), aspect="equal")
    axis.set(xlabel=BAND_NOTE, ylabel="query")
    for ticks in (axis.set_xticks, axis.set_yticks):
        ticks(range(SEQ), [str(place) for place in order], fontsize=8)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def draw_combine(axis: Axes, queries: Tensor, buckets: Tensor) -> None:
    """One query back in the order of the row: each round's keys, and their weighed sum."""
    alone, weights, together = (part.float() for part in weigh_rounds(queries, buckets))
    rows = [*alone[:, QUERY], together[QUERY]]
    names = [f"round {r}\nweight {weights[r, QUERY]:.2f}" for r in range(ROUNDS)] + ["output"]
    for index, (name, probabilities) in enumerate(zip(names, rows, strict=True)):
        y = 4.2 - 2.2 * index
        for place, probability in enumerate(probabilities.tolist()):
            colour = FAINT
            if probability:
                colour = COLOURS[buckets[index, place]] if index < ROUNDS else INK
                axis.text(place, y + 0.6, f"{probability:.2f}"[1:], ha="center", fontsize=8)
            axis.add_patch(Rectangle((place - 0.46, y - 0.46), 0.92, 0.92, color=colour))
            ink = "white" if probability else "#999999"
            axis.text(place, y, str(place), ha="center", va="center", color=ink, fontsize=9)
        outline = Rectangle((QUERY - 0.46, y - 0.46), 0.92, 0.92, fill=False, color=INK)
        axis.add_patch(outline)
        axis.text(-0.9, y, name, ha="right", va="center", color=INK)
    axis.text(-0.5, -1.6, COMBINE_NOTE, color=INK, va="top")
    axis.set(xlim=(-4.2, SEQ - 0.3), ylim=(-3.2, 5.6))
    axis.axis("off")


def main(argv: list[str] | None = None) -> int:
    """Draw the four panels and save them."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.tools.draw_lsh_round",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=Path("docs/pictures/lsh_round.png"), help="PNG file"
    )
    output: Path = parser.parse_args(argv).output
    queries = vectors()
    buckets = hash_places(queries)
    order = sort_by_bucket(buckets[None, None], None, BUCKETS).order[0, 0, 0].tolist()
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 12})
    figure, axes = plt.subplots(2, 2, figsize=(12, 10), layout="constrained")
    draw_hash(axes[0, 0], queries, buckets)
    draw_sort(axes[0, 1], buckets, order)
    draw_band(axes[1, 0], buckets, order)
    draw_combine(axes[1, 1], queries, buckets)
    titles = (
        "1  Hash: a query's direction gives its bucket",
        "2  Sort: tokens of a bucket stand together",
        f"3  Band: a query sees the {WINDOW} places before it",
        f"4  Combine: {ROUNDS} rounds for query {QUERY}, back in the row",
    )
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title, loc="left", fontweight="bold", color=INK)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    plt.close(figure)
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

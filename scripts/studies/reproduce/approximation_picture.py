"""A picture of buckets and attention on a text: figures 1 and 2 of the paper, of a real file."""

from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from torch import Tensor

from reformer_hf import ReformerHFByteTokenizer
from scripts.benchmarks.common.plot import new_figure
from scripts.studies.reproduce.approximation_run import Case, Layer, attend

COLUMNS, LINES = 64, 8
"""Of the text that is drawn: the end of the row."""

ROUNDS = 4
FAINTEST = 1e-4
"""Probability of the palest colour."""


def characters(ids: Tensor) -> list[str]:
    """A sign for each byte; others than the printable ones of ASCII are dots."""
    signs = ReformerHFByteTokenizer().batch_decode(ids.unsqueeze(1).tolist())
    return [sign if len(sign) == 1 and " " <= sign <= "~" else "·" for sign in signs]


def draw_text(layer: Layer, ids: Tensor, window: int, folder: Path) -> None:
    """Draw the last bytes of a row coloured by bucket, and the attention among them.

    Args:
        layer: of which the first head is drawn.
        ids: tokens of the row, (seq,).
        window: places that a query sees in a round.
        folder: gets `text.png`.
    """
    case = Case("band", ROUNDS, window)
    _, attention_map, buckets = attend(layer, case, window, seed=0)
    shown = min(COLUMNS * LINES, len(ids))
    figure = new_figure(15, 5.5)
    text, exact, lsh = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    _draw_buckets(text, characters(ids[-shown:]), buckets[0, 0, 0, -shown:])
    maps = {"exact": layer.exact[0], "LSH": attention_map.to_dense()[0, 0]}
    for axes, (name, probabilities) in zip((exact, lsh), maps.items(), strict=True):
        image = axes.imshow(
            probabilities[-shown:, -shown:].clamp(min=FAINTEST / 10).numpy(),
            norm=LogNorm(FAINTEST, 1),
            cmap="Blues",
            interpolation="nearest",
        )
        rounds = f", {ROUNDS} rounds" if name == "LSH" else ""
        axes.set(title=f"{name} attention{rounds}", xlabel="key", ylabel="query")
    figure.colorbar(image, ax=[exact, lsh], shrink=0.7, label="probability")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "text.png", dpi=120)


def _draw_buckets(axes, signs: list[str], buckets: Tensor) -> None:
    """The text, its bytes on the colour of their bucket in the first round."""
    palette = colormaps["tab20"]
    _, number = torch.unique(buckets, return_inverse=True)
    for place, (sign, bucket) in enumerate(zip(signs, number.tolist(), strict=True)):
        x, y = place % COLUMNS, place // COLUMNS
        colour = palette(bucket % palette.N)
        axes.add_patch(Rectangle((x, y), 1, 1, color=colour, alpha=0.6, linewidth=0))
        axes.text(x + 0.5, y + 0.5, sign, ha="center", va="center", family="monospace", size=6)
    lines = -(-len(signs) // COLUMNS)
    axes.set(xlim=(0, COLUMNS), ylim=(lines, 0), title="bytes coloured by bucket, one round")
    axes.set_aspect(2)  # as high as letters are
    axes.axis("off")

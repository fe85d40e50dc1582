"""Shared query-key against separate queries and keys, full attention in all layers, equal steps.

    python -m scripts.studies.reproduce shared_qk

The paper's figure 3, left: with queries that are keys, too, and a place that does not attend to
itself, training is no worse. Goes on where it was interrupted.
"""

from functools import partial

from scripts.studies.learning.common import Row
from scripts.studies.learning.recipe import Recipe
from scripts.studies.reproduce.rows import plot_curves, render_against, run_claim

SEPARATE, SHARED = "separate", "shared query-key"
KINDS = {SEPARATE: "full", SHARED: "full_shared_qk"}

ABOUT = "full attention in all layers"
NOTES = """Published (section 5 and figure 3, left: enwik8 and imagenet64, curves without numbers):
the shared space performs no worse, and on enwik8 seems to train slightly faster. Both rows here
have the same steps on the same bytes. The shared one has no matrix for keys, so fewer parameters.
"""


def make_rows(base: Recipe) -> dict[str, Row]:
    """Both kinds of full attention in all layers."""
    count = len(base.layers)
    return {name: Row(base.changed(attn_layers=[kind] * count)) for name, kind in KINDS.items()}


def run(argv: list[str] | None = None) -> int:
    """Train what is missing."""
    render = partial(render_against, SEPARATE, NOTES)
    return run_claim("shared_qk", ABOUT, __doc__, make_rows, render, plot_curves, argv)

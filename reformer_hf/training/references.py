"""What a result is compared with: simple methods on the same rows, in a table and in the record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer

from reformer_hf.training.record import add_to_record
from reformer_hf.training.tables import aligned

NOTHING = "nothing was learned yet"
COUNTING = "counting does as well"
COMPRESSING = "a compressor does as well"
LOWER_IS_BETTER = frozenset(("loss", "mse", "mae", "bits_per_dim"))
"""Metrics; of all others more is better."""


@dataclass(frozen=True)
class Reference:
    """What a simple method reaches.

    Attributes:
        name: of the method.
        scores: by the names of the model's metrics, without `eval_`; also `train_samples` and
            `train_bytes`, what it was counted on.
        lesson: what follows for a model that is not better.
    """

    name: str
    scores: Mapping[str, float]
    lesson: str = COUNTING


def keep_references(
    trainer: Trainer,
    metrics: Mapping[str, Any],
    references: Sequence[Reference],
    deciding: str,
) -> dict[str, Any]:
    """Print the model's metrics beside those of simple methods, and record them.

    They go to `eval_results.json` and `all_results.json`, and to the record of the run, from where
    its card has them. Call it in the main process only.

    Args:
        trainer: that was trained and evaluated.
        metrics: of that evaluation, with `eval_` before their names.
        references: from the simplest on; nothing happens without any.
        deciding: the metric that tells which is better.

    Returns:
        `references`, scores by name of the method and of the metric, and `comparison`, with the
        deciding `metric` and the `verdict` in a sentence.
    """
    if not references:
        return {}
    ours = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    said = verdict(deciding, ours[deciding], references)
    print(f"\n{_table(ours, references)}\n\n{said}\n")
    kept = {
        "references": {each.name: dict(each.scores) for each in references},
        "comparison": {"metric": deciding, "verdict": said},
    }
    trainer.save_metrics("eval", {**metrics, **kept})
    add_to_record(Path(str(trainer.args.output_dir)), kept)
    return kept


def _table(ours: Mapping[str, Any], references: Sequence[Reference]) -> str:
    """A column for each metric that the model and a method have."""
    shared = [name for name in ours if any(name in each.scores for each in references)]
    rows = {"this model": ours} | {each.name: each.scores for each in references}
    lines = [[name, *map(scores.get, shared)] for name, scores in rows.items()]
    return aligned([["", *shared], *lines])


def verdict(metric: str, ours: float, references: Sequence[Reference]) -> str:
    """Say which method the model is not better than, the simplest first, or that there is none."""
    known = [each for each in references if metric in each.scores]
    for each in known:
        theirs = each.scores[metric]
        is_better = ours < theirs if metric in LOWER_IS_BETTER else ours > theirs
        if not is_better:  # nor is what is no number
            return (
                f"{metric} {ours:.4f} is not better than {theirs:.4f}, {each.name}: {each.lesson}"
            )
    return f"{metric} {ours:.4f} is better than {' and '.join(each.name for each in known)}"

"""The duplication task, a model that learns it, and what the model makes of other attention."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from transformers import set_seed

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.training.optimizers import make_optimizer
from scripts.studies.reproduce.common import chunk_length, num_buckets

LEARNING_RATE, MUON_RATE = 1e-2, 2e-2
WIDTH, HEADS = 256, 4
WARMUP = 10
"""Steps of each stage in which the learning rates rise."""


class Task(NamedTuple):
    """The sequences 0w0w.

    Attributes:
        length: |w|, symbols.
        symbols: from which those of w are drawn, with repetition.
        window: places that LSH attention looks at in a round.
    """

    length: int
    symbols: int
    window: int


class Stage(NamedTuple):
    """A part of the training.

    Attributes:
        stretch: symbols of w that a row shows twice, at their positions; all of them at the end.
        rows: of a step.
        steps: of the optimizers.
    """

    stretch: int
    rows: int
    steps: int


class Attention(NamedTuple):
    """How a model attends.

    Attributes:
        scope: of LSH attention.
        rounds: of hashing; 0 for full shared-QK attention, which has the same weights.
    """

    scope: str
    rounds: int

    @property
    def name(self) -> str:
        """As the paper's table has it."""
        return f"LSH-{self.rounds}" if self.rounds else "Full"


class Rows(NamedTuple):
    """A batch, of which the places of the second w are scored.

    Attributes:
        ids: tokens, (rows, seq).
        position_ids: their places in 0w0w, (rows, seq).
        targets: tokens that the last places are to predict, (rows, stretch).
    """

    ids: Tensor
    position_ids: Tensor
    targets: Tensor


def make_rows(task: Task, stretch: int, rows: int, generator: Generator) -> Rows:
    """Rows of a stretch of 0w and the same stretch of the second 0w.

    Args:
        task: what is repeated.
        stretch: symbols that are to be predicted.
        rows: of the batch.
        generator: of all draws.

    Returns:
        Rows of ``2 * stretch + 1`` tokens; of the whole 0w0w but its last token, which predicts
        nothing, where the stretch is |w|.
    """
    words = torch.randint(1, task.symbols + 1, (rows, task.length), generator=generator)
    words = torch.cat([torch.zeros(rows, 1, dtype=torch.int64), words], dim=1)
    start = torch.randint(task.length - stretch + 1, (rows, 1), generator=generator)
    places = start + torch.arange(stretch + 1)
    first = words.gather(1, places)
    second_places = task.length + 1 + places[:, :-1]
    return Rows(
        torch.cat([first, first[:, :-1]], dim=1),
        torch.cat([places, second_places], dim=1),
        first[:, 1:],
    )


def build_model(
    task: Task, attention: Attention, seq: int, hash_seed: int = 0
) -> ReformerHFForCausalLM:
    """A model of one layer for rows of so many tokens; its weights fit any other."""
    return ReformerHFForCausalLM(
        ReformerHFConfig(
            attn_layers=["lsh" if attention.rounds else "full_shared_qk"],
            attention_scope=attention.scope,
            is_decoder=True,
            vocab_size=task.symbols + 1,
            hidden_size=WIDTH,
            num_attention_heads=HEADS,
            attention_head_size=WIDTH // HEADS,
            feed_forward_size=WIDTH,
            position_embedding_type="learned",
            max_position_embeddings=2 * (task.length + 1),
            lsh_attn_chunk_length=chunk_length(attention.scope, task.window),
            num_hashes=attention.rounds or 1,
            num_buckets=num_buckets(attention.scope, task.window, seq),  # type: ignore[arg-type]
            hash_seed=hash_seed,
            pad_token_id=None,
            eos_token_id=None,
        )
    )


def answer(model: ReformerHFForCausalLM, rows: Rows) -> Tensor:
    """Logits of the places that are scored, (rows, stretch, vocabulary)."""
    hidden = model.reformer(
        rows.ids,
        position_ids=rows.position_ids,
        attention_mask=torch.ones_like(rows.ids),  # the gap between positions is no new document
    ).last_hidden_state
    return model.lm_head(hidden[:, -rows.targets.shape[1] :])


def train(
    task: Task, attention: Attention, stages: Sequence[Stage], seed: int, path: Path
) -> dict[str, Any]:
    """Train and save the weights.

    Args:
        task: to learn.
        attention: in training.
        stages: of the training. The learning rates fall to zero over all of them.
        seed: of weights, rows and rotations.
        path: of the weights.

    Returns:
        The curve, an entry `[step, loss, share of right answers]` for every 10 steps, of which it
        holds the means; the numbers of parameters, steps and tokens.
    """
    set_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    total, model = sum(stage.steps for stage in stages), None
    curve: list[tuple[float, float]] = []
    for stage in stages:
        weights = None if model is None else model.state_dict()
        model = build_model(task, attention, 2 * stage.stretch + 1).train()
        if weights is not None:
            model.load_state_dict(weights)
        curve += train_stage(model, task, stage, generator, len(curve), total)
    assert model is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    tens = [curve[start : start + 10] for start in range(0, len(curve), 10)]
    means = [torch.tensor(ten).mean(dim=0).tolist() for ten in tens]
    return {
        "curve": [[10 * n + 5, *(round(value, 4) for value in one)] for n, one in enumerate(means)],
        "parameters": model.num_parameters(),
        "steps": total,
        "tokens": sum(s.rows * s.steps * (2 * s.stretch + 1) for s in stages),
    }


def train_stage(
    model: ReformerHFForCausalLM,
    task: Task,
    stage: Stage,
    generator: Generator,
    done: int,
    total: int,
) -> list[tuple[float, float]]:
    """Train by a part of the training; returns loss and share of right answers of each step.

    Args:
        model: to train.
        task: to learn.
        stage: sizes and steps.
        generator: of the rows.
        done: steps of earlier stages.
        total: steps of all stages.
    """
    optimizer = make_optimizer(model, LEARNING_RATE, MUON_RATE, betas=(0.9, 0.95))
    full_rates = [group["lr"] for group in optimizer.param_groups]
    curve = []
    for step in range(stage.steps):
        share = min(1.0, (step + 1) / WARMUP) * (1 - (done + step) / total)
        for group, rate in zip(optimizer.param_groups, full_rates, strict=True):
            group["lr"] = rate * share
        rows = make_rows(task, stage.stretch, stage.rows, generator)
        logits = answer(model, rows)
        loss = cross_entropy(logits.flatten(0, 1), rows.targets.flatten())
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right = logits.argmax(dim=-1) == rows.targets
        curve.append((loss.item(), float(right.double().mean())))
    return curve


@torch.no_grad()
def evaluate(task: Task, attention: Attention, path: Path, rows: int) -> dict[str, Any]:
    """Ask a trained model for the second w of new sequences, one at a time.

    Each has rotations of its own: the buckets of a model that goes by positions are otherwise those
    of a single draw.

    Args:
        task: that was learned.
        attention: in evaluation.
        path: of the weights.
        rows: to ask about, the same for every model.

    Returns:
        `accuracy`, over all symbols; that of each row; the buckets. Or an `error` where the weights
        are missing.
    """
    if not path.exists():
        return {"error": f"no {path}: delete results.json, and the same command trains again"}
    generator = torch.Generator().manual_seed(2**20)
    model = build_model(task, attention, 2 * task.length + 1).eval()
    model.load_state_dict(torch.load(path))
    shares = []
    for hash_seed in range(rows):
        model.reformer.config.hash_seed = hash_seed  # read at each pass
        batch = make_rows(task, task.length, 1, generator)
        right = answer(model, batch).argmax(dim=-1) == batch.targets
        shares.append(float(right.double().mean()))
    return {
        "accuracy": sum(shares) / rows,
        "by_row": [round(share, 4) for share in shares],
        "num_buckets": model.config.num_buckets if attention.rounds else None,
    }

"""One model of the study: its training by a curriculum, and its evaluation at a distance."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import set_seed

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.nn.reversible import Decision
from reformer_hf.ops.hashing import NumBuckets, default_num_buckets
from scripts.studies.recall.task import IGNORED, TASKS, VOCABULARY, Rows, Size, row_length

WINDOW = 64
"""Keys that a query sees in a local layer, and in each round of an LSH layer."""

NEXT = "lsh_next"
"""Kind of LSH layers that take from a key the value of the next token (`lsh_next_values`)."""

SPARE_BUCKETS = 32
"""Times as many buckets as filler, spread evenly, would fill to the window. It is not spread so."""

MUON_RATE, MUON_DECAY, ADAMW_RATE = 2e-2, 0.1, 3e-3

SETTINGS = {
    "window": WINDOW,
    "spare_buckets": SPARE_BUCKETS,
    "learning_rates": [MUON_RATE, ADAMW_RATE],
    "muon_weight_decay": MUON_DECAY,
}
"""What all trained models share."""


class Stage(NamedTuple):
    """A part of the curriculum.

    Attributes:
        size: of the rows.
        rows: of a step.
        steps: of the optimizers.
        num_buckets: of LSH layers.
    """

    size: Size
    rows: int
    steps: int
    num_buckets: int


class Learner(NamedTuple):
    """What is trained.

    Attributes:
        task: of `TASKS`.
        attention: kind of the last layer.
        num_hashes: rounds in training; 0 for kinds that do not hash.
        seed: of weights and rows.
    """

    task: str
    attention: str
    num_hashes: int
    seed: int

    @property
    def name(self) -> str:
        """For people and files."""
        rounds = f"_{self.num_hashes}_rounds" if self.num_hashes else ""
        return f"{self.task}_{self.attention}{rounds}_seed_{self.seed}"


def build_model(learner: Learner, num_buckets: NumBuckets) -> ReformerHFForCausalLM:
    """A model with so many buckets; its weights fit any other number of them."""
    is_next = learner.attention == NEXT
    kind = "lsh" if is_next else learner.attention
    layers = [kind] if learner.task == "recall" else ["local", kind]
    return ReformerHFForCausalLM(
        ReformerHFConfig(
            attn_layers=layers,
            is_decoder=True,
            vocab_size=VOCABULARY,
            hidden_size=128,
            num_attention_heads=1,
            attention_head_size=64,
            feed_forward_size=64,
            position_embedding_type="none",
            conv_kernel=0 if is_next else 2,  # which is to bring a key to its value
            local_attn_chunk_length=WINDOW,
            lsh_attn_chunk_length=WINDOW,
            num_hashes=learner.num_hashes or 1,
            num_buckets=num_buckets,  # type: ignore[arg-type]
            lsh_local_round=is_next,
            lsh_next_values=is_next,
            pad_token_id=None,
            eos_token_id=None,
            reversible=False,
        )
    )


def make_optimizers(model: ReformerHFForCausalLM) -> list[Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest."""
    matrices = [p for p in model.reformer.encoder.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(matrices, lr=MUON_RATE, weight_decay=MUON_DECAY),
        AdamW(rest, lr=ADAMW_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def answer(model: ReformerHFForCausalLM, rows: Rows, **options: Any) -> tuple[Tensor, Tensor]:
    """Logits and targets of the places that are asked, (questions, vocabulary) and (questions,)."""
    asked = rows.targets != IGNORED
    hidden = model.reformer(rows.ids, **options).last_hidden_state
    return model.lm_head(hidden[asked]), rows.targets[asked]


def train(learner: Learner, stages: Sequence[Stage], path: Path) -> dict:
    """Train by a curriculum and save the weights.

    Args:
        learner: what to train.
        stages: of the curriculum. The learning rates fall to zero in the last one.
        path: of the weights.

    Returns:
        The curve, an entry `[step, loss, share of right answers]` for every 10 steps, of which it
        holds the means; the number of parameters and of tokens.
    """
    set_seed(learner.seed)
    generator = torch.Generator().manual_seed(learner.seed)
    model, curve = None, []
    for index, stage in enumerate(stages):
        weights = None if model is None else model.state_dict()
        model = build_model(learner, stage.num_buckets)
        if weights is not None:
            model.load_state_dict(weights)
        curve += train_stage(model, learner.task, stage, generator, index == len(stages) - 1)
    assert model is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    tens = [curve[start : start + 10] for start in range(0, len(curve), 10)]
    means = [torch.tensor(ten).mean(dim=0).tolist() for ten in tens]
    return {
        "curve": [[10 * n + 5, *(round(value, 4) for value in one)] for n, one in enumerate(means)],
        "parameters": model.num_parameters(),
        "tokens": sum(s.rows * s.steps * row_length(learner.task, s.size) for s in stages),
    }


def train_stage(
    model: ReformerHFForCausalLM, task: str, stage: Stage, generator: Generator, is_last: bool
) -> list[tuple[float, float]]:
    """Train by a part of the curriculum.

    Args:
        model: to train.
        task: of `TASKS`.
        stage: sizes and steps.
        generator: of the rows.
        is_last: the learning rates fall to zero.

    Returns:
        Loss and share of right answers of each step.
    """
    model.train()
    optimizers = make_optimizers(model)
    schedule = partial(_rate, steps=stage.steps, is_last=is_last)
    schedules = [LambdaLR(one, schedule) for one in optimizers]
    curve = []
    for _ in range(stage.steps):
        logits, targets = answer(model, TASKS[task](stage.size, stage.rows, generator))
        loss = cross_entropy(logits, targets)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for one in (*optimizers, *schedules):
            one.step()
        right = logits.argmax(dim=-1) == targets
        curve.append((loss.item(), float(right.double().mean())))
    return curve


@torch.no_grad()
def evaluate(learner: Learner, path: Path, size: Size, num_hashes: int, rows: int) -> dict:
    """Ask a trained model about new rows, one at a time.

    Args:
        learner: what was trained.
        path: of its weights.
        size: of the rows.
        num_hashes: rounds now; 0 for kinds that do not hash.
        rows: to ask about, the same for every model.

    Returns:
        `accuracy`, the number of `questions`, and where the last layer hashes the shares of
        questions whose answer has their `same_bucket` in a round, and that are `shown` it there.
        An `error` where the weights are missing.
    """
    if not path.exists():
        return {"error": f"no {path}: delete results.json, and the same command trains again"}
    num_buckets = default_num_buckets(SPARE_BUCKETS * size.distance, WINDOW)
    model = build_model(learner, num_buckets).eval()
    model.load_state_dict(torch.load(path))
    generator = torch.Generator().manual_seed(sum(size))
    right: list[Tensor] = []
    found: list[Tensor] = []
    for _ in range(rows):
        batch = TASKS[learner.task](size, 1, generator)
        decisions = [Decision() for _ in model.config.attn_layers]
        options: dict[str, Any] = {"hash_decisions": decisions}
        if num_hashes:
            options["num_hashes"] = num_hashes
        logits, targets = answer(model, batch, **options)
        right.append(logits.argmax(dim=-1) == targets)
        if num_hashes:
            buckets = decisions[-1].recall(_never)[:, :, :num_hashes]  # without the local round
            found.append(find_answers(batch, buckets, int(learner.attention != NEXT)))
    result: dict[str, Any] = {
        "accuracy": float(torch.cat(right).double().mean()),
        "questions": sum(map(len, right)),
        "num_buckets": num_buckets if num_hashes else None,
    }
    if found:
        shares = torch.cat(found).double().mean(dim=0).tolist()
        result |= dict(zip(("same_bucket", "shown"), shares, strict=True))
    return result


def find_answers(rows: Rows, buckets: Tensor, behind: int = 1) -> Tensor:
    """Say of each question whether LSH shows it the place of its answer.

    That is the one behind the first place of the token that asks, or that place itself.

    Args:
        rows: a single one.
        buckets: bucket ids of one head, (1, 1, rounds, seq).
        behind: places from that of the token to that of its answer; 0 where the value is the next
            token's.

    Returns:
        Whether the answer has the bucket of the question in a round, and whether it is in the
        window there, (questions, 2).
    """
    (ids,), (targets,) = rows
    found = []
    for asking in (targets != IGNORED).nonzero().flatten().tolist():
        place = int((ids == ids[asking]).nonzero()[0]) + behind
        between = buckets[0, 0, :, place : asking + 1]
        mates = between == between[:, -1:]
        near = mates.sum(dim=1) - 1 <= WINDOW
        found.append(torch.stack([mates[:, 0].any(), (mates[:, 0] & near).any()]))
    return torch.stack(found)


def _never() -> Any:
    raise AssertionError("the pass has hashed")


def _rate(step: int, steps: int, is_last: bool) -> float:
    """Share of the learning rate: up in the first steps, and in the last stage down to zero."""
    rise = min(1.0, (step + 1) / 10)
    return rise * (1 - step / steps) if is_last else rise

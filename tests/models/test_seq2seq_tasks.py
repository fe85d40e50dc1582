"""The encoder-decoder learns to copy and to reverse, and writes it whatever the padding."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from reformer_hf import ReformerHFConfig, ReformerHFForConditionalGeneration

PADDING, END, START, COPY, REVERSE = range(5)
SYMBOLS, LONGEST = range(5, 15), 8
SIZES = {
    "is_encoder_decoder": True,
    "encoder_attn_layers": ["full", "full"],
    "decoder_start_token_id": START,
    "eos_token_id": END,
    "pad_token_id": PADDING,
    "vocab_size": SYMBOLS.stop,
    "position_embedding_type": "learned",
    "max_position_embeddings": 24,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "attention_head_size": 16,
    "feed_forward_size": 128,
    "hidden_dropout_prob": 0.0,
    "local_attention_probs_dropout_prob": 0.0,
    "lsh_attn_chunk_length": 12,
    "num_buckets": 2,
    "num_hashes": 2,
    "activation_budget": 0,
}


def draw_batch(rows: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Rows of a task token, 3 to 8 symbols and the end; what is to be written, in that order."""
    lengths = torch.randint(3, LONGEST + 1, (rows, 1), generator=generator)
    symbols = torch.randint(SYMBOLS.start, SYMBOLS.stop, (rows, LONGEST), generator=generator)
    tasks = torch.randint(COPY, REVERSE + 1, (rows, 1), generator=generator)
    places = torch.arange(LONGEST)
    backwards = symbols.gather(1, (lengths - 1 - places).clamp(min=0))
    written = torch.where(tasks == COPY, symbols, backwards)
    padded = [pad(x.masked_fill(places >= lengths, PADDING), (0, 1)) for x in (symbols, written)]
    source, target = (x.scatter(1, lengths, END) for x in padded)
    source = torch.cat([tasks, source], dim=1)
    return {
        "input_ids": source,
        "attention_mask": (source != PADDING).long(),
        "labels": target.masked_fill(target == PADDING, -100),
    }


def pad_left(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same sources, padded on the other side."""
    mask = batch["attention_mask"]
    order = mask.argsort(dim=1, stable=True)
    return {name: batch[name].gather(1, order) for name in ("input_ids", "attention_mask")}


def train(model: ReformerHFForConditionalGeneration, steps: int) -> None:
    """Adam with a warm-up and a decline to zero."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.2)
    model.train()
    for _ in range(steps):
        model(**draw_batch(64, generator)).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def accuracy(model: ReformerHFForConditionalGeneration, side: str, num_beams: int) -> float:
    """Share of unseen rows that are written without a fault, end included."""
    batch = draw_batch(300, torch.Generator().manual_seed(1))
    labels = batch.pop("labels")
    written = model.generate(
        **(pad_left(batch) if side == "left" else batch),
        num_beams=num_beams,
        max_new_tokens=LONGEST + 1,
    )[:, 1:]
    # Behind the end, beam search pads with the end where the pad token is 0.
    return float(((written == labels) | (labels == -100)).all(dim=1).double().mean())


@pytest.fixture(scope="module")
def learned() -> ReformerHFForConditionalGeneration:
    torch.manual_seed(0)
    model = ReformerHFForConditionalGeneration(
        ReformerHFConfig(**SIZES, decoder_attn_layers=["full", "full"])
    )
    train(model, 300)
    return model


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_both_tasks_are_learned_with_cross_attention(learned, side, num_beams):
    assert accuracy(learned, side, num_beams) > 0.99


@pytest.mark.slow  # a second model to train
@pytest.mark.parametrize("layers", [["full", "full"], ["full_shared_qk", "lsh"]])
def test_both_tasks_are_learned_by_the_packed_decoder(layers):
    torch.manual_seed(0)
    model = ReformerHFForConditionalGeneration(
        ReformerHFConfig(**SIZES, decoder_attn_layers=layers, decoder_form="packed")
    )
    train(model, 600)
    for side in ("right", "left"):
        for num_beams in (1, 3):
            assert accuracy(model, side, num_beams) > 0.99

"""A model built the usual way, from a configuration that says almost nothing, learns."""

import math
import random
from collections import Counter

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from reformer_hf import ReformerHFByteTokenizer, ReformerHFConfig

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards brew very odd potions"


def unigram_bits(ids: Tensor) -> float:
    counts = Counter(ids.tolist())
    return -sum(n / len(ids) * math.log2(n / len(ids)) for n in counts.values())


def test_a_small_default_model_falls_far_below_the_unigram_entropy():
    """Where positions drown the words, as at `axial_norm_std=1`, it stays at that entropy."""
    text = " ".join(random.Random(0).choices(WORDS.split(), k=6000))
    ids = torch.tensor(ReformerHFByteTokenizer.encode_bytes(text.encode()))
    torch.manual_seed(0)
    config = ReformerHFConfig(hidden_size=64, num_hidden_layers=2, max_position_embeddings=512)
    model = AutoModelForCausalLM.from_config(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    bits = []
    for rows in ids[: 30 * 1024].view(30, 2, 512):
        loss = model(rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bits.append(loss.item() / math.log(2))
    # 4.3 for the bytes alone; about 2 after 30 steps, each on text not seen before.
    assert sum(bits[-5:]) / 5 < 0.65 * unigram_bits(ids)

"""Texts written in plain loops over whole prefixes, which `generate()` must equal."""

from typing import Any

import torch
from torch import Tensor

from reformer_hf import ReformerHFForCausalLM
from tests.models.tiny import ALL_OPTIONS, WITH_SRU, random_ids, tiny_lm

NEW = 8
"""Tokens that most tests write."""

MODELS: dict[str, dict[str, Any]] = {
    "band": {"attn_layers": ["lsh", "local", "full_shared_qk", "lsh"]},
    "band, all options": {
        "deduplicate_rounds": True,
        "attention_sparsity": 4,
        "lm_head_sparsity": 3,
        **ALL_OPTIONS,
        **WITH_SRU,
    },
    # Its steps equal whole prefixes where the only LSH layer is the last attention layer.
    "chunk": {"attention_scope": "chunk", "attn_layers": ["local", "full", "lsh"]},
}


def build_model(name: str, **fields: Any) -> ReformerHFForCausalLM:
    """A model in float64 that never ends a text by itself."""
    return tiny_lm(**{"eos_token_id": None, **MODELS[name], **fields}).double()


def all_real(ids: Tensor) -> dict[str, Tensor]:
    """Arguments of `generate()` for rows without padding."""
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def pad_left(rows: list[Tensor]) -> dict[str, Tensor]:
    """Arguments of `generate()` for rows of any lengths."""
    longest = max(map(len, rows))
    ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :], mask[index, longest - len(row) :] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def some_rows(*lengths: int) -> list[Tensor]:
    """Prompts of these lengths."""
    return [random_ids(length, seed=length) for length in lengths]


def next_logits(model: ReformerHFForCausalLM, ids: Tensor, **options: Any) -> Tensor:
    """Logits after whole prefixes, (batch, vocab)."""
    with torch.no_grad():
        return model(ids, use_cache=False, **options).logits[:, -1]


def greedy_loop(
    model: ReformerHFForCausalLM, ids: Tensor, steps: int = NEW, **options: Any
) -> Tensor:
    """Greedy texts of rows without padding, prompts included."""
    for _ in range(steps):
        best = next_logits(model, ids, **options).argmax(-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
    return ids


def cached_greedy_loop(model: ReformerHFForCausalLM, ids: Tensor, steps: int = NEW) -> Tensor:
    """Greedy texts in steps of one token with a cache."""
    cache, new = None, ids
    for _ in range(steps):
        with torch.no_grad():
            output = model(new, past_key_values=cache, use_cache=True)
        cache, new = output.past_key_values, output.logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, new], dim=1)
    return ids


def sample_loop(model: ReformerHFForCausalLM, ids: Tensor, steps: int = NEW) -> Tensor:
    """Sampled texts, with torch's default generator."""
    for _ in range(steps):
        probabilities = next_logits(model, ids).float().softmax(-1)
        ids = torch.cat([ids, torch.multinomial(probabilities, 1)], dim=1)
    return ids


def beam_loop(
    model: ReformerHFForCausalLM, prompt: Tensor, width: int, steps: int = NEW
) -> list[tuple[float, Tensor]]:
    """Beam search of one row without an end token: mean log-probabilities and texts, best first."""
    beams = [(0.0, prompt)]
    for _ in range(steps):
        longer = []
        for score, ids in beams:
            scores = next_logits(model, ids[None]).log_softmax(-1)[0]
            for token, log_probability in enumerate(scores.tolist()):
                text = torch.cat([ids, torch.tensor([token])])
                longer.append((score + log_probability, text))
        beams = sorted(longer, key=lambda beam: -beam[0])[:width]
    return [(score / steps, ids) for score, ids in beams]

"""A short sequence by the settings of a long one, against plain computations of the same."""

import torch
from torch import Tensor
from transformers import set_seed

from reformer_hf import ReformerHFForCausalLM
from scripts.studies.million.arguments import StepArguments


def gradients(
    model: ReformerHFForCausalLM, ids: Tensor, labels: Tensor
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients."""
    model.zero_grad()
    loss = model(ids, labels=labels).loss
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), found


def difference(left: tuple, right: tuple) -> dict:
    """How far two results of `gradients` are apart, relative to the second."""
    mine, theirs = (torch.cat([g.flatten() for g in each[1].values()]) for each in (left, right))
    gradient = float((mine - theirs).abs().max() / theirs.abs().max())
    return {"loss": abs(left[0] - right[0]) / abs(right[0]), "gradient": gradient}


def check(arguments: StepArguments, ids: Tensor) -> dict:
    """Compare a short sequence with plain computations of the same, without dropout.

    In float64, because in float32 the two could round a hash to different buckets.
    """
    changes = {
        "redraw_rotations": False,
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
    }
    plain_changes = {
        "reversible": False,
        "chunk_size_attention_heads": 0,
        "chunk_size_feed_forward": 0,
        "attn_implementation": "eager",
    }
    set_seed(arguments.seed)
    lean = ReformerHFForCausalLM(arguments.config(**changes)).double().train()
    plain = ReformerHFForCausalLM(arguments.config(**changes, **plain_changes)).double().train()
    plain.load_state_dict(lean.state_dict())
    whole = gradients(lean, ids, ids)
    results = {"against plain autograd": difference(whole, gradients(plain, ids, ids))}
    if arguments.attention_scope == "band":
        half = ids[:, : ids.shape[1] // 2]
        first_labels = ids.clone()
        first_labels[:, half.shape[1] :] = -100
        within, alone = gradients(lean, ids, first_labels), gradients(lean, half, half)
        results["first half of the sequence against it alone"] = difference(within, alone)
    return results

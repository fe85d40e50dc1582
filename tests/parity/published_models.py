"""transformers' Reformer as published, ours with its weights, and both under the same rotations."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import ReformerConfig, ReformerModelWithLMHead

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM

# What all configurations of 2020 have, the last six fields without a meaning today.
FIELDS_OF_2020: dict[str, Any] = {
    "architectures": ["ReformerModelWithLMHead"],
    "axial_norm_std": 1.0,
    "axial_pos_embds": True,
    "chunk_size_feed_forward": 0,
    "chunk_size_lm_head": 0,
    "eos_token_id": 2,
    "hash_seed": None,
    "hidden_act": "relu",
    "initializer_range": 0.02,
    "is_decoder": True,
    "layer_norm_eps": 1e-12,
    "local_num_chunks_after": 0,
    "local_num_chunks_before": 1,
    "lsh_attention_probs_dropout_prob": 0.0,
    "lsh_num_chunks_after": 0,
    "lsh_num_chunks_before": 1,
    "model_type": "reformer",
    "pad_token_id": 0,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 100}},
    "attention_probs_dropout_prob": 0.1,
    "intermediate_size": 3072,
    "num_chunks_after": 0,
    "num_chunks_before": 1,
    "output_past": True,
    "sinusoidal_pos_embds": False,
}

CRIME_AND_PUNISHMENT: dict[str, Any] = {
    **FIELDS_OF_2020,
    "attn_layers": ["local", "lsh"] * 3,
    "attention_head_size": 64,
    "axial_pos_embds_dim": [64, 192],
    "axial_pos_shape": [512, 1024],
    "feed_forward_size": 512,
    "hidden_dropout_prob": 0.05,
    "hidden_size": 256,
    "local_attention_probs_dropout_prob": 0.05,
    "local_attn_chunk_length": 64,
    "lsh_attn_chunk_length": 64,
    "max_position_embeddings": 524288,
    "num_attention_heads": 2,
    "num_buckets": [64, 128],
    "num_hashes": 1,
    "num_hidden_layers": 6,
    "vocab_size": 320,
}

ENWIK8: dict[str, Any] = {
    **FIELDS_OF_2020,
    "attn_layers": ["local", "local", "lsh", "local"] * 3,
    "attention_head_size": 128,
    "axial_pos_embds_dim": [256, 768],
    "axial_pos_shape": [128, 512],
    "feed_forward_size": 4096,
    "hidden_dropout_prob": 0.2,
    "hidden_size": 1024,
    "local_attention_probs_dropout_prob": 0.2,
    "local_attn_chunk_length": 128,
    "lsh_attn_chunk_length": 256,
    "max_position_embeddings": 65536,
    "num_attention_heads": 8,
    "num_buckets": 512,
    "num_hashes": 4,
    "num_hidden_layers": 12,
    "vocab_size": 258,
}

NARROW_ENWIK8: dict[str, Any] = {
    **ENWIK8,
    "attention_head_size": 16,
    "axial_pos_embds_dim": [8, 24],
    "feed_forward_size": 48,
    "hidden_size": 32,
    "num_attention_heads": 2,
}

TINY: dict[str, Any] = {
    **CRIME_AND_PUNISHMENT,
    "attn_layers": ["local", "lsh"] * 2,
    "attention_head_size": 8,
    "axial_pos_embds_dim": [4, 12],
    "axial_pos_shape": [8, 16],
    "feed_forward_size": 24,
    "hidden_size": 16,
    "local_attn_chunk_length": 8,
    "lsh_attn_chunk_length": 8,
    "max_position_embeddings": 128,
    "num_buckets": [4, 6],
    "num_hidden_layers": 4,
    "vocab_size": 40,
}

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "local_attention_probs_dropout_prob": 0.0}


def with_layers(config: dict[str, Any], layers: list[str]) -> dict[str, Any]:
    """The configuration with other layers."""
    return {**config, "attn_layers": layers, "num_hidden_layers": len(layers)}


def build_stock(
    config: dict[str, Any],
    dtype: torch.dtype,
    model_class: type[Any] = ReformerModelWithLMHead,
) -> Any:
    """transformers' model in eval mode, with weights large enough for all parts to matter."""
    torch.manual_seed(0)
    model = model_class(ReformerConfig(**config)).to(dtype).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=2 / weight.shape[1] ** 0.5)
            elif "layer_norm" in name:
                weight += 0.3 * torch.randn_like(weight)
    return model


def build_ours(stock: ReformerModelWithLMHead, config: dict[str, Any]) -> ReformerHFForCausalLM:
    """Our model in eval mode with the same weights, from the same configuration."""
    model = ReformerHFForCausalLM(ReformerHFConfig(**config, activation_budget=0))
    model = model.to(stock.dtype).eval()
    model.load_state_dict(stock.state_dict())
    return model


def lsh_layers(model: nn.Module) -> list[Any]:
    """The LSH attention modules, first to last."""
    modules = [layer.attention.self_attention for layer in model.reformer.encoder.layers]
    return [module for module in modules if hasattr(module, "query_key")]


def inject_rotations(stock: Any, ours: Any) -> None:
    """Give each LSH layer of transformers' model the rotations of ours, instead of fresh ones."""
    for theirs, own in zip(lsh_layers(stock), lsh_layers(ours), strict=True):
        rotations = own.rotations(0, theirs.num_hashes)
        theirs._hash_vectors = _with_rotations(theirs._hash_vectors, rotations)


def _with_rotations(hash_vectors: Any, rotations: Tensor) -> Any:
    def hash_with_rotations(vectors: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        drawn = rotations.to(vectors.dtype)
        with mock.patch("torch.randn", return_value=drawn) as randn:
            buckets = hash_vectors(vectors, *args, **kwargs)
        assert randn.call_args.args == (drawn.shape,)
        return buckets

    return hash_with_rotations


def build_pair(
    config: dict[str, Any], dtype: torch.dtype = torch.float64
) -> tuple[ReformerModelWithLMHead, ReformerHFForCausalLM]:
    """Both models with the same weights and, per layer, the same rotations."""
    stock = build_stock(config, dtype)
    # Rotations that differ by layer tell whether each layer uses its own.
    ours = build_ours(stock, {**config, "share_rotations": False, "redraw_rotations": False})
    inject_rotations(stock, ours)
    return stock, ours


def random_ids(config: dict[str, Any], batch: int, seq: int) -> Tensor:
    """Token ids, (batch, seq), without the pad id."""
    return torch.randint(1, config["vocab_size"], (batch, seq))


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    zip_format: bool = True,
) -> Path:
    """Write config.json and pytorch_model.bin as they were published."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    file = folder / "pytorch_model.bin"
    torch.save(weights, file, _use_new_zipfile_serialization=zip_format)
    return folder

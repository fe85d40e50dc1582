"""The sizes of a step on a very long sequence."""

from dataclasses import dataclass
from typing import Any

from reformer_hf import ReformerHFConfig
from reformer_hf.training.arguments import argument

VOCABULARY = 320  # of the published checkpoint; bytes are a part of it
PRESETS = {
    "million": {
        "num_tokens": 2**20,
        "hidden_size": 512,
        "num_attention_heads": 8,
        "feed_forward_size": 1024,
        "num_hashes": 4,
        "attention_scope": "band",
    },
    # google/reformer-crime-and-punishment, of which transformers' announcement says "half a
    # million tokens in less than 8 GB".
    "crime-and-punishment": {
        "num_tokens": 2**19,
        "hidden_size": 256,
        "num_attention_heads": 2,
        "feed_forward_size": 512,
        "num_hashes": 1,
        "num_buckets": [64, 128],
        "hidden_dropout_prob": 0.05,
        "local_attention_probs_dropout_prob": 0.05,
        "attention_scope": "chunk",
    },
}
SIZES = (
    *("attention_scope", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("feed_forward_size", "num_hashes"),
    *("chunk_size_attention_heads", "chunk_size_feed_forward", "chunk_size_lm_head"),
)
"""Arguments that are fields of the configuration."""


@dataclass
class StepArguments:
    """What is trained on what. Sizes that are left out are the preset's."""

    preset: str = argument("million", "Sizes to start from.", choices=list(PRESETS))
    output_dir: str = argument("outputs/train_million", "Output folder.")
    num_tokens: int | None = argument(None, "Tokens of the sequence.")
    num_hidden_layers: int = argument(6, "Layers: local, LSH in turn.")
    hidden_size: int | None = argument(None, "Width of a stream.")
    num_attention_heads: int | None = argument(None, "Heads of 64.")
    feed_forward_size: int | None = argument(None, "Width inside.")
    num_hashes: int | None = argument(None, "Rounds of hashing.")
    attention_scope: str | None = argument(None, "band (the preset million) or chunk (the other).")
    bf16: bool = argument(
        False,
        "Compute sub-layers in bfloat16, the streams in float32. Saves memory; slow on processors "
        "without bfloat16 products.",
    )
    learning_rate: float = argument(1e-3, "Of AdamW.")
    chunk_size_attention_heads: int = argument(1, "Heads that attend at a time; 0 for all.")
    chunk_size_feed_forward: int = argument(4096, "Tokens in the feed-forward sub-layer at a time.")
    chunk_size_lm_head: int = argument(4096, "Tokens whose logits are held at a time.")
    check_tokens: int = argument(4096, "Tokens of the check before the step; 0 for none.")
    seed: int = argument(0, "Of weights and rotations.")
    num_threads: int = argument(0, "Of torch; 0 for its own choice.")

    def __post_init__(self) -> None:
        """Fill in what the preset says."""
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name, value) is None:
                setattr(self, name, value)

    def config(self, **changes: Any) -> ReformerHFConfig:
        """Configure the model; `changes` replace fields."""
        assert self.num_tokens and self.hidden_size
        quarter = self.hidden_size // 4
        fields = {
            **{name: value for name, value in PRESETS[self.preset].items() if name != "num_tokens"},
            **{name: getattr(self, name) for name in SIZES},
            "vocab_size": VOCABULARY,
            "is_decoder": True,
            "attention_head_size": 64,
            "hash_length": self.num_tokens,
            "max_position_embeddings": self.num_tokens,
            "axial_pos_embds_dim": [quarter, self.hidden_size - quarter],
            "activation_budget": 0,
        }
        return ReformerHFConfig(**{**fields, **changes})

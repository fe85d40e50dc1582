"""A peer with linear attention, where flash-linear-attention is installed: Gated DeltaNet."""

from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from scripts.benchmarks.common.peers import CachedModel, ModelShape

PACKAGE = "flash-linear-attention"


def why_not(device: torch.device) -> str | None:
    """Why Gated DeltaNet cannot run on a device, or None."""
    if find_spec("fla") is None:
        return f"not installed: pip install {PACKAGE}"
    if device.type != "cuda":
        return f"the kernels of {PACKAGE} run on no CPU"
    try:
        _ = import_module("fla.models").GatedDeltaNetForCausalLM
    except Exception as error:  # whatever other releases of torch and transformers bring about
        return f"{type(error).__name__} from importing {PACKAGE}: {error}".partition("\n")[0]
    return None


def intermediate_size(shape: ModelShape) -> int:
    """Width inside feed-forward with which a layer has about as many parameters as GPT-2's.

    Its attention has five matrices and its feed-forward three, GPT-2's four and two. A multiple of
    16, which the matrix units of GPUs want.
    """
    exact = (2 * shape.feed_forward_size - shape.hidden_size) / 3
    return max(16, 16 * round(exact / 16))


class GatedDeltaNet(CachedModel):
    """Linear attention with gates and the delta rule (Yang et al. 2024, arXiv 2412.06464).

    As the package has it by default, but for its own cross-entropy: torch's is timed in all models.
    Prompts are read by its kernels in chunks, and tokens by its recurrent one.
    """

    cache: Cache | None  # type: ignore[assignment]

    def __init__(self, shape: ModelShape):
        models = import_module("fla.models")  # optional
        config = models.GatedDeltaNetConfig(
            vocab_size=shape.vocab_size,
            max_position_embeddings=shape.max_positions,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_hidden_layers,
            num_heads=shape.num_attention_heads,
            head_dim=shape.hidden_size // shape.num_attention_heads,
            expand_v=1.0,
            intermediate_size=intermediate_size(shape),
            fuse_cross_entropy=False,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.model = models.GatedDeltaNetForCausalLM(config).eval()
        self.reset()

    def reset(self) -> None:
        self.cache = None

    def forward(self, ids: Tensor) -> Tensor:
        out = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        return out.logits

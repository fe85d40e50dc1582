"""Self-attention as a sub-layer of a reversible block, built from the configuration."""

from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from reformer_hf.models.cache_reformer_hf import Remembered
from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.encoder_decoder.cross_attention import Source
from reformer_hf.models.implementations import to_implementation
from reformer_hf.models.sequence_parallel import Sharded
from reformer_hf.nn.attention import LocalSelfAttention, LSHSelfAttention
from reformer_hf.nn.convolution import ShortConvolution
from reformer_hf.nn.feed_forward import OutputProjection
from reformer_hf.nn.full_attention import FullSelfAttention
from reformer_hf.nn.head_norm import HeadRMSNorm
from reformer_hf.nn.layer_norm import StreamLayerNorm, cast_for_products
from reformer_hf.nn.self_attention import DEFAULT_HASHING, Hashing, SelfAttention
from reformer_hf.ops.attention_map import AttentionMap, MapForm
from reformer_hf.ops.derivatives import transform_runs
from reformer_hf.ops.rotary import Rotary


def build_self_attention(config: ReformerHFConfig, layer_index: int) -> SelfAttention:
    """Build the self-attention module of a layer.

    Args:
        config: the configuration.
        layer_index: which layer.

    Returns:
        A module of :mod:`reformer_hf.nn.attention`.
    """
    kind = config.attn_layers[layer_index]
    causal = bool(config.is_decoder)
    shared_qk = kind in ("lsh", "full_shared_qk")
    dropout_field = "lsh" if shared_qk else "local"
    common: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "head_dim": config.attention_head_size,
        "causal": causal,
        "dropout": getattr(config, f"{dropout_field}_attention_probs_dropout_prob") or 0.0,
        "conv_kernel": config.conv_kernel,
        "sparsity": config.attention_sparsity,
        "sparsity_kernel": config.attention_sparsity_kernel,
    }
    if not shared_qk:
        common["use_qk_norm"] = config.use_qk_norm
    if kind in ("full", "full_shared_qk"):
        return FullSelfAttention(shared_query_key=shared_qk, **common)
    if kind not in ("local", "lsh"):
        raise ValueError(f"attn_layers has {kind!r}, which build_self_attention does not build")
    common |= asdict(config.attention_window(kind, causal))
    if kind == "local":
        return LocalSelfAttention(**common)
    common |= {"num_buckets": config.num_buckets, "share_rotations": config.share_rotations}
    return LSHSelfAttention(
        num_hashes=config.num_hashes,
        deduplicate_rounds=config.deduplicate_rounds,
        local_round=config.lsh_local_round,
        next_values=config.lsh_next_values,
        layer_index=layer_index,
        chunk_lengths=config.chunk_lengths(),
        **common,
    )


class LayerInputs(NamedTuple):
    """What a layer is given beside the streams.

    Attributes:
        documents: document of each place, (batch, seq), or None.
        hashing: how LSH layers hash.
        output_map: also return the attention map in this form.
        remembered: the tokens before, in a pass with a cache or of a shard.
        source: what a decoder's layers attend to beside their own tokens.
        rotary: angles that queries and keys are turned by.
    """

    documents: Tensor | None = None
    hashing: Hashing = DEFAULT_HASHING
    output_map: MapForm | None = None
    remembered: Remembered | Sharded | None = None
    source: Source | None = None
    rotary: Rotary | None = None


class ReformerHFAttention(nn.Module):
    """LayerNorm, self-attention, output projection: sub-layer f of a reversible block.

    Without an output projection, heads side by side go through dropout alone.
    """

    def __init__(self, config: ReformerHFConfig, layer_index: int):
        super().__init__()
        self.config = config
        self.layer_norm = StreamLayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attention = build_self_attention(config, layer_index)
        width = config.num_attention_heads * config.attention_head_size
        self.output: Any = nn.Dropout(config.hidden_dropout_prob)
        if config.attention_output_projection:
            self.output = OutputProjection(width, config.hidden_size, config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Tensor,
        inputs: LayerInputs,
        heads: slice | None = None,
        dropout_seed: int | None = None,
    ) -> tuple[Tensor, AttentionMap | Tensor | None]:
        """Return what is added to the other stream, and the attention map or None.

        Of some `heads`, their share of what is added; `dropout_seed` is the same for all of them.
        """
        attention = self.self_attention
        late = heads is not None and inputs.remembered is None and self._normalises_late()
        norm = self.layer_norm if late else None
        normalised = hidden_states if late else cast_for_products(self.layer_norm(hidden_states))
        options: Any = {
            "hashing": inputs.hashing,
            "output_map": inputs.output_map,
            "rotary": inputs.rotary,
            # Read at each pass: `set_attn_implementation` changes it.
            "implementation": to_implementation(self.config._attn_implementation),
        }
        if inputs.remembered is None:
            options |= {"heads": heads, "norm": norm}
            outputs, attention_map = attention(normalised, inputs.documents, **options)
        else:
            past = inputs.remembered.past(attention, inputs.hashing, normalised.device)
            new = inputs.remembered.new
            outputs, attention_map = attention.attend_cached(normalised, past, new, **options)
        if heads is not None:
            return self.output.project_some(outputs, attention.num_heads, heads, dropout_seed), None
        return self.output(outputs), attention_map

    def head_groups(self) -> list[slice]:
        """Groups of heads that `chunk_size_attention_heads` allows to attend at a time.

        One group where it allows all, and where a projection is not called for its weight alone:
        it is sparse, left out or quantised, an adapter has replaced it, or a hook brings the weight
        in, changes or watches it.
        """
        step, count = self.config.chunk_size_attention_heads, self.self_attention.num_heads
        modules = [*self.self_attention.children(), getattr(self.output, "dense", self.output)]
        called = ShortConvolution | HeadRMSNorm
        modules = [module for module in modules if not isinstance(module, called)]
        if not 0 < step < count or not all(map(_is_bare, modules)):
            return [slice(0, count)]
        return [slice(head, min(head + step, count)) for head in range(0, count, step)]

    def _normalises_late(self) -> bool:
        """Whether groups of heads can do with no normalised copy of the stream.

        Not where a convolution reads its neighbours, nor for a second derivative, which `eager` is
        for, nor under a transform of `torch.func`, nor in compiled code.
        """
        return (
            self.self_attention.convolution is None
            and to_implementation(self.config._attn_implementation) != "eager"
            and not torch.compiler.is_compiling()
            and not transform_runs()
            and _is_bare(self.layer_norm, StreamLayerNorm)
        )


def _is_bare(module: Any, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether a module is what its weights say: nobody notices if it is not called."""
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    hooks += (module._backward_hooks, module._backward_pre_hooks)
    changed = hasattr(module, "_hf_hook") or "forward" in vars(module)
    if type(module) is not kind or any(hooks) or changed:
        return False
    return not is_traceable_wrapper_subclass(module.weight)

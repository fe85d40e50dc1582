"""Configuration of the Reformer: transformers' field names, plus those of this package."""

import math
from typing import Any, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from reformer_hf.models.configuration_checks import check_config
from reformer_hf.models.configuration_sides import check_sides, resolve_sides
from reformer_hf.ops.hashing import default_num_buckets

DEFAULT_HASH_LENGTH = 8192


class AttentionWindow(NamedTuple):
    """How far a chunked layer looks.

    Attributes:
        chunk_length: tokens.
        num_chunks_before: chunks.
        num_chunks_after: chunks.
    """

    chunk_length: int
    num_chunks_before: int
    num_chunks_after: int


@strict
class ReformerHFConfig(PreTrainedConfig):
    r"""Configuration of a Reformer.

    A dictionary with `model_type: reformer`, as of the `google/reformer-*` checkpoints, is read as
    transformers means it: `attention_scope="chunk"`, `share_rotations=True`, and rotations that
    are redrawn in training only if it has no `hash_seed`.

    Args:
        attn_layers (`list[str]`): per layer `"local"`, `"lsh"`, `"full"` (exact attention with the
            weights of a local layer) or `"full_shared_qk"` (with those of an LSH layer).
        attention_scope (`"band"` or `"chunk"`): which keys a query may see. `"band"`, the default,
            is strictly causal; `"chunk"` is for checkpoints of transformers' Reformer.
        is_decoder (`bool`, *optional*): causal attention. Causal models set it.
        is_encoder_decoder (`bool`): an encoder, and a decoder that reads its output; the two
            following fields are then given in place of `attn_layers`.
        encoder_attn_layers, decoder_attn_layers (`list[str]`, *optional*): as `attn_layers`.
        decoder_form (`"cross_attention"` or `"packed"`): whether decoder layers have a sub-layer
            that attends to the encoder output, or encoder output and target stand in one row.
        share_encoder_decoder_embeddings (`bool`): one table of word embeddings for both.
        decoder_start_token_id (`int`, *optional*): what the decoder reads before the first token.
        hidden_size (`int`): width of a stream.
        num_attention_heads (`int`): heads.
        attention_head_size (`int`): dimension of a head.
        feed_forward_size (`int`): width inside the feed-forward sub-layer.
        hidden_act (`str`): activation of the feed-forward sub-layer.
        chunk_size_feed_forward (`int`): tokens of a row computed at a time; 0 for as many as are
            fast, which is all but on a CPU.
        chunk_size_attention_heads (`int`): heads that attend at a time in self-attention, which
            bounds the memory of very long inputs; 0 for all.
        chunk_size_lm_head (`int`): tokens of a row whose logits are held at a time while the loss
            is computed; 0 for all. Above 0, training returns no logits.
        local_attn_chunk_length, lsh_attn_chunk_length (`int`): tokens in a chunk.
        local_num_chunks_before, lsh_num_chunks_before (`int`): look-back in chunks.
        local_num_chunks_after, lsh_num_chunks_after (`int`, *optional*): look-ahead in chunks; by
            default none, and as many as before in bidirectional layers of the `band` scope.
        num_hashes (`int`): rounds of hashing.
        num_buckets (`int` or `list[int]`, *optional*): even number of buckets or even factors of
            it. By default `hash_length` over the window, so that a bucket fills its window there.
        hash_length (`int`, *optional*): length in tokens that `num_buckets` is chosen for; the
            smaller of the position limit and 8,192 by default.
        hash_seed (`int`, *optional*): seed of the rotations outside training; 0 by default.
        redraw_rotations (`bool`): new rotations in each training pass (default true).
        share_rotations (`bool`): one draw for all layers (default false).
        deduplicate_rounds (`bool`): count a key that several rounds show once.
        reversible (`bool`): rebuild activations in backward instead of storing them.
        activation_budget (`int`): bytes of activations that a training pass may store all the
            same, of the first layers, which saves the time to rebuild them; 0 to rebuild all.
        position_embedding_type (`"axial"`, `"learned"` or `"none"`): axial by default.
        axial_pos_shape (`list[int]`): lengths of the axes; their product limits the positions.
        axial_pos_embds_dim (`list[int]`): dimensions of the axes; they sum to `hidden_size`.
        axial_norm_std (`float`): standard deviation of the axial tables at the start. The default
            is transformers'; at that the positions of a new model drown its words for long, so the
            training scripts choose `initializer_range`.
        max_position_embeddings (`int`, *optional*): limit of the positions; the product of
            `axial_pos_shape` by default, 4,096 for learned positions.
        vocab_size (`int`): tokens.
        hidden_dropout_prob, local_attention_probs_dropout_prob,
            lsh_attention_probs_dropout_prob (`float`): dropout. Full layers use the local one, or
            the LSH one if they share queries and keys; cross-attention uses the local one.
        tie_word_embeddings (`bool`): of an encoder-decoder, use the decoder's word embeddings for
            the output, too, which then reads the mean of both streams.
        initializer_range (`float`): standard deviation of weights at the start.
        layer_norm_eps (`float`): epsilon of the layer norms.

    Raises:
        ValueError: if fields do not fit together; the message names field, value and fix.
    """

    model_type = "reformer_hf"
    keys_to_ignore_at_inference = ["past_key_values", "encoder_last_hidden_state"]
    base_model_fsdp_plan = {
        "embeddings": "free_full_weight",
        "encoder.layers.*": "free_full_weight",
        "encoder.layer_norm": "keep_full_weight",
    }

    attn_layers: list[str] | tuple[str, ...] = ("local", "lsh", "local", "lsh", "local", "lsh")
    attention_scope: str | None = None
    is_decoder: bool | None = None
    encoder_attn_layers: list[str] | tuple[str, ...] | None = None
    decoder_attn_layers: list[str] | tuple[str, ...] | None = None
    decoder_form: str = "cross_attention"
    share_encoder_decoder_embeddings: bool = True
    decoder_start_token_id: int | None = None

    hidden_size: int = 256
    num_attention_heads: int = 12
    attention_head_size: int = 64
    feed_forward_size: int = 512
    hidden_act: str = "relu"
    chunk_size_attention_heads: int = 0
    chunk_size_lm_head: int = 0

    local_attn_chunk_length: int = 64
    local_num_chunks_before: int = 1
    local_num_chunks_after: int | None = None
    lsh_attn_chunk_length: int | None = 64
    lsh_num_chunks_before: int | None = 1
    lsh_num_chunks_after: int | None = None

    num_hashes: int = 1
    num_buckets: int | list[int] | tuple[int, ...] | None = None
    hash_length: int | None = None
    hash_seed: int | None = None
    redraw_rotations: bool | None = None
    share_rotations: bool | None = None
    deduplicate_rounds: bool = False
    reversible: bool = True
    activation_budget: int = 2**29

    position_embedding_type: str | None = None
    axial_pos_embds: bool = True
    axial_pos_shape: list[int] | tuple[int, ...] = (64, 64)
    axial_pos_embds_dim: list[int] | tuple[int, ...] = (64, 192)
    axial_norm_std: float = 1.0
    max_position_embeddings: int | None = None

    vocab_size: int = 320
    hidden_dropout_prob: float | int = 0.05
    local_attention_probs_dropout_prob: float | int = 0.05
    lsh_attention_probs_dropout_prob: float | int | None = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | int | None = None

    use_cache: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        is_stock = kwargs.pop("model_type", self.model_type) == "reformer"
        num_layers = kwargs.pop("num_hidden_layers", None)
        resolve_sides(self)
        self.attn_layers = list(self.attn_layers)
        self.axial_pos_shape = list(self.axial_pos_shape)
        self.axial_pos_embds_dim = list(self.axial_pos_embds_dim)
        if num_layers is not None:
            self.num_hidden_layers = num_layers
        self._resolve_scope(is_stock)
        self._resolve_positions()
        self._resolve_buckets()
        # Here and not in a validator of `strict`, which would hide the ValueError in its own error.
        self.check_fields()
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, *inputs: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a configuration file, also one of transformers' Reformer; see `PreTrainedConfig`."""
        config_dict, kwargs = super().get_config_dict(*inputs, **kwargs)
        if config_dict.get("model_type") == "reformer":
            # Here, or `from_pretrained` warns that the model types differ.
            names = ReformerHFConfig.__annotations__.keys() & kwargs.keys()
            config_dict = cls(**{**config_dict, **{name: kwargs[name] for name in names}}).to_dict()
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a dictionary; keyword arguments replace its fields. See `PreTrainedConfig`.

        They do so before anything is derived from the fields or checked.
        """
        names = ReformerHFConfig.__annotations__.keys() & kwargs.keys()
        replaced = {name: kwargs.pop(name) for name in names}
        return super().from_dict({**config_dict, **replaced}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All fields; see `PreTrainedConfig`.

        `auto_map`, which names the files of code in a repository, is left out where this class does
        not come from such a file: saving would not copy them.
        """
        fields = super().to_dict()
        if not self.is_remote_code():
            fields.pop("auto_map", None)
        return fields

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers, which is the length of `attn_layers`."""
        return len(self.attn_layers)

    @num_hidden_layers.setter
    def num_hidden_layers(self, value: int) -> None:
        if value != len(self.attn_layers):
            raise ValueError(
                f"num_hidden_layers={value} but attn_layers has {len(self.attn_layers)} entries: "
                "give attn_layers one entry per layer and leave num_hidden_layers out"
            )

    @property
    def layer_types(self) -> list[str]:
        """The kind of cache layer of each layer, by which transformers' `DynamicCache` makes it.

        Never stored: transformers would refuse the file.
        """
        return ["reformer_hf"] * self.num_hidden_layers

    def validate_layer_type(self) -> None:
        """Accept `layer_types`, which are none of transformers'; `attn_layers` says the rest."""

    @property
    def position_limit(self) -> int | None:
        """Number of distinct positions, or None where positions are not embedded."""
        if self.position_embedding_type == "none":
            return None
        limit = self.max_position_embeddings or 0
        if self.position_embedding_type == "axial":
            limit = min(limit, math.prod(self.axial_pos_shape))
        return limit

    def attention_window(self, layer_type: str, causal: bool) -> AttentionWindow:
        """How far the layers of a chunked type, `local` or `lsh`, look in a model so causal."""
        length, before, after = (
            getattr(self, f"{layer_type}_{name}")
            for name in ("attn_chunk_length", "num_chunks_before", "num_chunks_after")
        )
        if after is None:
            after = before if self.attention_scope == "band" and not causal else 0
        return AttentionWindow(length, before, after)

    def chunk_lengths(self) -> tuple[int, ...]:
        """Chunk lengths of the chunked layers, which decide the padding in the `chunk` scope."""
        types = [kind for kind in ("local", "lsh") if kind in self.attn_layers]
        return tuple(getattr(self, f"{kind}_attn_chunk_length") for kind in types)

    def _resolve_scope(self, is_stock: bool) -> None:
        if self.attention_scope is None:
            self.attention_scope = "chunk" if is_stock else "band"
        if self.share_rotations is None:
            self.share_rotations = is_stock
        if self.redraw_rotations is None:
            self.redraw_rotations = not (is_stock and self.hash_seed is not None)

    def _resolve_positions(self) -> None:
        if self.position_embedding_type is None:
            self.position_embedding_type = "axial" if self.axial_pos_embds else "learned"
        if self.position_embedding_type == "axial" and not self.axial_pos_embds:
            raise ValueError(
                "axial_pos_embds=False with position_embedding_type='axial': leave axial_pos_embds "
                "out, and set position_embedding_type to 'learned' or 'none' for other positions"
            )
        self.axial_pos_embds = self.position_embedding_type == "axial"
        if self.max_position_embeddings is None and self.position_embedding_type != "none":
            product = math.prod(self.axial_pos_shape)
            self.max_position_embeddings = product if self.axial_pos_embds else 4096

    def _resolve_buckets(self) -> None:
        if self.hash_length is None:
            limit = self.position_limit
            self.hash_length = min(limit or DEFAULT_HASH_LENGTH, DEFAULT_HASH_LENGTH)
        if isinstance(self.num_buckets, tuple):
            self.num_buckets = list(self.num_buckets)
        hashes = "lsh" in [*self.attn_layers, *(self.encoder_attn_layers or ())]
        if self.num_buckets is None and hashes and self.lsh_attn_chunk_length:
            window = self.lsh_attn_chunk_length * max(1, self.lsh_num_chunks_before or 0)
            self.num_buckets = default_num_buckets(self.hash_length, window)

    def check_fields(self) -> None:
        """Check the fields against each other; models do it again when they are built.

        Raises:
            ValueError: naming field, value and fix.
        """
        if self.is_encoder_decoder:
            check_sides(self)
        else:
            check_config(self)

"""Configuration of the Reformer: transformers' field names, plus those of this package."""

import copy
import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Literal, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

from reformer_hf.models.attention_maps import read_output_attentions
from reformer_hf.models.configuration_rules import (
    ALIASES,
    DEPENDENTS,
    LAYER_COUNTS,
    LEFTOVERS,
    STOCK_DEFAULTS,
    STOCK_TYPE,
    check_encoder_decoder,
    check_model,
    derive_fields,
    own_names,
    unknown_names,
)
from reformer_hf.models.rotary_rules import ROPE_NAMES, derive_rotary
from reformer_hf.models.sparsity_rules import check_sparsity, settle_unused
from reformer_hf.ops.attention_map import MapForm
from reformer_hf.ops.window import Window

logger = logging.get_logger(__name__)

LORA_TARGETS = ("query", "query_key", "value")
"""Modules that get adapters of PEFT's LoRA where its user names none."""


Side = Literal["encoder", "decoder"]
SIDES: tuple[Side, Side] = ("encoder", "decoder")


@strict
class ReformerHFConfig(PreTrainedConfig):
    r"""Configuration of a Reformer.

    All that is not given follows from what is: `hidden_size=512` decides heads, feed-forward and
    position widths, `max_position_embeddings=16384` the axes of the positions,
    `num_hidden_layers=4` the kinds of layers. From nothing comes a small model of bytes, as
    `ReformerHFByteTokenizer` reads them. Names that other models of transformers have, such as
    `num_layers`, `d_model` or `dropout`, are understood; unknown ones are refused. Saved files
    hold every field; where `from_pretrained` changes one, what depends on it is derived again.

    A dictionary with `model_type: reformer`, as of the `google/reformer-*` checkpoints, is read as
    transformers means it: with its defaults, `attention_scope="chunk"`, `share_rotations=True`, and
    rotations that are redrawn in training only if it has no `hash_seed`.

    Args:
        attn_layers (`list[str]`): per layer `"local"`, `"lsh"`, `"full"` (exact attention with the
            weights of a local layer) or `"full_shared_qk"` (with those of an LSH layer). By
            default local and LSH in turn, `num_hidden_layers` of them: as good as full ones early
            on, and with `lsh_next_values` better (docs/learning.md, docs/next_values.md).
        attention_scope (`"band"` or `"chunk"`): which keys a query may see. `"band"`, the default,
            is strictly causal; `"chunk"` is for checkpoints of transformers' Reformer.
        is_decoder (`bool`, *optional*): causal attention. A causal model's own configuration says
            so; any other model made of its checkpoint is then causal, too.
        is_encoder_decoder (`bool`): an encoder, and a decoder that reads its output; the two
            following fields are then given in place of `attn_layers`.
        encoder_attn_layers, decoder_attn_layers (`list[str]`, *optional*): as `attn_layers`, or
            numbers of layers as `encoder_layers` and `decoder_layers`.
        decoder_form (`"cross_attention"` or `"packed"`): whether decoder layers have a sub-layer
            that attends to the encoder output, or encoder output and target stand in one row.
        share_encoder_decoder_embeddings (`bool`): one table of word embeddings for both.
        decoder_start_token_id (`int`, *optional*): what the decoder reads before the first token.
        hidden_size (`int`): width of a stream.
        num_attention_heads (`int`): heads; by default as many as give a head about 64 dimensions.
        attention_head_size (`int`): dimension of a head; by default the heads share the width.
        feed_forward_size (`int`): width inside the feed-forward sub-layer; by default 4 times
            `hidden_size`.
        hidden_act (`str`): activation of the feed-forward sub-layer.
        ff_sparsity (`int`): units in a block of the feed-forward sub-layer, of which a token uses
            one, chosen by a controller; 0, the default, to use all units.
        ff_sparsity_rank (`int`, *optional*): rank of the controller; by default the number of
            blocks, at most half of `hidden_size`.
        ff_sparsity_temperature (`float`): factor of the noise with which units are chosen in
            training.
        ff_sparsity_hard_share (`float`): share of training passes of a layer that choose units;
            the others weigh all units by a softmax.
        chunk_size_feed_forward (`int`): tokens of a row computed at a time; 0 for as many as are
            fast, which is all but on a CPU.
        chunk_size_attention_heads (`int`): heads that attend at a time in self-attention, which
            bounds the memory of very long inputs; 0 for all.
        chunk_size_lm_head (`int`): tokens of a row whose logits are held at a time while the loss
            is computed; 0 for all. Above 0, training returns no logits.
        output_streams (`"both"` or `"mean"`): hidden states that models return: both streams side
            by side, `2 * hidden_size` wide (default), or their mean, `hidden_size` wide, for tools
            that size what follows by `hidden_size`. Heads read both whatever it says.
        local_attn_chunk_length, lsh_attn_chunk_length (`int`): tokens in a chunk.
        local_num_chunks_before, lsh_num_chunks_before (`int`): look-back in chunks.
        local_num_chunks_after, lsh_num_chunks_after (`int`, *optional*): look-ahead in chunks; by
            default none, and as many as before in bidirectional layers of the `band` scope.
        num_hashes (`int`): rounds of hashing; 2 by default. 16 in their place gained 0.09 bits per
            byte in three times the time (one seed, no local round: docs/reproduction.md). A model
            may be evaluated with more than it was trained with.
        num_buckets (`int` or `list[int]`, *optional*): even number of buckets or even factors of
            it. By default `hash_length` over the window, so that a bucket fills its window there.
        hash_length (`int`, *optional*): length in tokens that `num_buckets` is chosen for; the
            smaller of the position limit and 8,192 by default.
        hash_seed (`int`, *optional*): seed of the rotations outside training; 0 by default.
        redraw_rotations (`bool`): new rotations in each training pass (default true).
        share_rotations (`bool`): one draw for all layers (default false).
        deduplicate_rounds (`bool`): count a key that several rounds show once.
        lsh_local_round (`bool`): one more round in LSH layers, in which all tokens of a document
            share a bucket, so that a query also sees its nearest tokens. `band` scope only.
        lsh_next_values (`bool`): a query of an LSH layer takes from a key the value of the token
            that follows it, so that it finds what followed when its like stood there before. With
            `lsh_local_round` only.
        conv_kernel (`int`): tokens that a short depthwise convolution on the input of attention
            sees, the own one included; in bidirectional layers as many on either side. 0, the
            default, for none.
        use_qk_norm (`bool`): normalise queries and keys of each head, with learned scales, before
            rotary positions turn them. Of self-attention in local and full layers: LSH layers and
            `"full_shared_qk"` ones, whose keys have unit length anyway, and cross-attention stay
            as they are.
        attention_sparsity (`int`): modules of sparse queries, keys and values in self-attention,
            such as 16: they divide `hidden_size` and the width of all heads. 0, the default, for
            dense ones. All heads then attend at once, whatever `chunk_size_attention_heads` says.
        attention_sparsity_kernel (`int`): tokens that sparse queries, keys and values are made of,
            the own one included; in bidirectional layers as many on either side.
        attention_output_projection (`bool`): project what self-attention returns (default true).
            If not, heads side by side are as wide as `hidden_size`.
        lm_head_sparsity (`int`): modules of a sparse output layer, such as 4; 0, the default, for
            a dense one.
        lm_head_sparse_share (`float`): share of training passes that use the sparse output layer.
            Below 1 there is a dense one besides, which the other passes train: each pass
            draws. Outside training the output is always of the sparse one.
        ff_sru_size (`int`): width of simple recurrent units beside the feed-forward sub-layer, as
            in Terraformer, which has 32. 0, the default, for none. Causal models only; of an
            encoder-decoder, the decoder.
        ff_sru_layers (`int`): how many of them stand one behind the other.
        reversible (`bool`): rebuild activations in backward instead of storing them.
        activation_budget (`int`): bytes of activations that a training pass may store all the
            same, of the first layers, which saves the time to rebuild them; 0 to rebuild all.
        position_embedding_type (`"axial"`, `"learned"`, `"rotary"` or `"none"`): axial by default.
            `"rotary"` turns queries and keys by their place in the document, which needs no limit
            of the length; LSH layers hash before they turn.
        ngram_sizes (`list[int]`): add embeddings of the last so many tokens, such as `[2, 3]`,
            looked up by hash; none by default. Good for bytes: little time, much memory.
        ngram_table_size (`int`): rows of their table for each size.
        rope_parameters (`dict`, *optional*): of rotary positions, as other models of transformers
            have them: `rope_theta` (10,000 by default), and `rope_type` (`"default"`, `"linear"`,
            `"llama3"` or `"yarn"`) with its `factor` and so on. `rope_theta` and `rope_scaling`
            are understood as arguments, too.
        axial_pos_shape (`list[int]`): lengths of the axes; by default two that cover
            `max_position_embeddings`.
        axial_pos_embds_dim (`list[int]`): dimensions of the axes, in equal parts of `hidden_size`
            by default.
        axial_norm_std (`float`): standard deviation of the axial tables at the start, by default
            that of the word embeddings. At 1, as transformers has it, positions drown the words.
        max_position_embeddings (`int`, *optional*): limit of the positions; the product of
            `axial_pos_shape` by default, 8,192 for learned positions.
        vocab_size (`int`): tokens.
        hidden_dropout_prob, local_attention_probs_dropout_prob,
            lsh_attention_probs_dropout_prob (`float`): dropout. Full layers use the local one, or
            the LSH one if they share queries and keys; cross-attention uses the local one.
        tie_word_embeddings (`bool`): of an encoder-decoder, use the decoder's word embeddings for
            the output, too, which then reads the mean of both streams.
        initializer_range (`float`): standard deviation of weights at the start.
        layer_norm_eps (`float`): epsilon of the layer norms.

    Raises:
        ValueError: if a name is unknown, or fields contradict each other; the message names field,
            value and fix.
    """

    model_type = "reformer_hf"
    keys_to_ignore_at_inference = ["past_key_values", "encoder_last_hidden_state"]
    # To read and set them by; the constructor knows them by `own_names`.
    attribute_map = {alias: own[0] for alias, own in ALIASES.items() if len(own) == 1}
    base_model_fsdp_plan = {
        "embeddings": "free_full_weight",
        "encoder.layers.*": "free_full_weight",
        "encoder.layer_norm": "keep_full_weight",
    }

    attn_layers: list[str] | tuple[str, ...] = ("local", "lsh") * 3
    attention_scope: str | None = None
    is_decoder: bool | None = None
    is_encoder_decoder: bool = False
    encoder_attn_layers: list[str] | tuple[str, ...] | None = None
    decoder_attn_layers: list[str] | tuple[str, ...] | None = None
    decoder_form: str = "cross_attention"
    share_encoder_decoder_embeddings: bool = True
    decoder_start_token_id: int | None = None

    hidden_size: int = 256
    num_attention_heads: int = 4
    attention_head_size: int = 64
    feed_forward_size: int = 1024
    hidden_act: str = "relu"
    ff_sparsity: int = 0
    ff_sparsity_rank: int | None = None
    ff_sparsity_temperature: float | int = 0.1
    ff_sparsity_hard_share: float | int = 0.3
    chunk_size_attention_heads: int = 0
    chunk_size_feed_forward: int = 0
    chunk_size_lm_head: int = 0
    output_streams: str = "both"

    local_attn_chunk_length: int = 64
    local_num_chunks_before: int = 1
    local_num_chunks_after: int | None = None
    lsh_attn_chunk_length: int | None = 64
    lsh_num_chunks_before: int | None = 1
    lsh_num_chunks_after: int | None = None

    num_hashes: int = 2
    num_buckets: int | list[int] | tuple[int, ...] | None = None
    hash_length: int | None = None
    hash_seed: int | None = None
    redraw_rotations: bool | None = None
    share_rotations: bool | None = None
    deduplicate_rounds: bool = False
    lsh_local_round: bool = False
    lsh_next_values: bool = False
    conv_kernel: int = 0
    use_qk_norm: bool = False
    attention_sparsity: int = 0
    attention_sparsity_kernel: int = 3
    attention_output_projection: bool = True
    lm_head_sparsity: int = 0
    lm_head_sparse_share: float | int = 1.0
    ff_sru_size: int = 0
    ff_sru_layers: int = 1
    reversible: bool = True
    activation_budget: int = 2**29

    position_embedding_type: str | None = None
    axial_pos_embds: bool = True
    axial_pos_shape: list[int] | tuple[int, ...] = (64, 128)
    axial_pos_embds_dim: list[int] | tuple[int, ...] = (128, 128)
    axial_norm_std: float = 0.02
    max_position_embeddings: int | None = None
    rope_parameters: dict[str, Any] | None = None
    ngram_sizes: list[int] | tuple[int, ...] = ()
    ngram_table_size: int = 16_384

    vocab_size: int = 258
    hidden_dropout_prob: float | int = 0.0
    local_attention_probs_dropout_prob: float | int = 0.0
    lsh_attention_probs_dropout_prob: float | int | None = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | int | None = None

    use_cache: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 1
    pad_token_id: int | None = 0

    def __new__(cls, *args: Any, **given: Any) -> Self:
        """Remember what is given, which `__post_init__` cannot tell from defaults."""
        config = super().__new__(cls)
        if given:  # not so for a copy
            config.__dict__["_given"] = given
        return config

    def __post_init__(self, **kwargs: Any) -> None:
        given: dict[str, Any] = self.__dict__.pop("_given", {})
        source: str | None = kwargs.pop("model_type", None)  # which only saved dictionaries say
        changed: Collection[str] = kwargs.pop("_changed", ())
        for name in LEFTOVERS & kwargs.keys() if source else ():
            own = ALIASES.get(name, ())
            if source == STOCK_TYPE or not own or any(field in given for field in own):
                self.__dict__[name] = kwargs.pop(name)  # no alias here
        self._check_names(kwargs, source)
        names = {field.name for field in fields(self)}
        given = own_names({n: v for n, v in given.items() if n in names or n in kwargs})
        again = self._derived_again(given, changed)
        if source == STOCK_TYPE:
            given = STOCK_DEFAULTS | given
        given = {name: value for name, value in given.items() if name not in again}
        for name in given.keys() & names:
            setattr(self, name, given[name])
        by_hand = changed if source else given
        derive_fields(self, given, source, by_hand)
        derive_rotary(self, given, kwargs, by_hand)
        settle_unused(self, by_hand)
        # Here and not in a validator of `strict`, which would hide the ValueError in its own error.
        self.check_fields()
        self.auto_map: dict[str, str] = {}  # which TRL reads in every configuration
        more = kwargs.keys() - {*ALIASES, *LAYER_COUNTS}
        super().__post_init__(**{name: kwargs[name] for name in more})
        read_output_attentions(self.output_attentions)

    def _check_names(self, names: Mapping[str, Any], source: str | None) -> None:
        """Refuse unknown names.

        Those of a file are kept, as transformers does: other programs leave their notes there. But
        one could be misspelt, or a field of a later version, so they are named.
        """
        advice = unknown_names(names, [field.name for field in fields(self)])
        if not advice:
            return
        text = "; ".join(f"{name}={names[name]!r}: {hint}" for name, hint in advice.items())
        text = f"ReformerHFConfig has no such field: {text}"
        if source is None:
            raise ValueError(text)
        logger.warning_once(f"{text} The model does not depend on it.")

    @staticmethod
    def _derived_again(given: Mapping[str, Any], changed: Collection[str]) -> set[str]:
        """Fields of a file that depend on others which are changed now."""
        again = {name for field in changed for name in DEPENDENTS.get(field, ())} - {*changed}
        shape, limit = given.get("axial_pos_shape"), given.get("max_position_embeddings")
        if shape and limit and math.prod(shape) >= limit:
            again.discard("axial_pos_shape")  # whose weights then serve
        return again

    @classmethod
    def get_config_dict(cls, *inputs: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a configuration file, also one of transformers' Reformer; see `PreTrainedConfig`."""
        config_dict, kwargs = super().get_config_dict(*inputs, **kwargs)
        if config_dict.get("model_type") == STOCK_TYPE:
            # Here, or `from_pretrained` warns that the model types differ.
            changes = {name: kwargs.pop(name) for name in OWN_NAMES & kwargs.keys()}
            config_dict = cls.from_dict(config_dict, **changes).to_dict()
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a dictionary; keyword arguments replace its fields. See `PreTrainedConfig`.

        They do so before anything is derived from the fields or checked. Unknown ones are left to
        `return_unused_kwargs`: the Auto classes pass on what is meant for tokenizers and models.
        """
        changes = own_names({name: kwargs.pop(name) for name in OWN_NAMES & kwargs.keys()})
        extra = {"_changed": changes.keys()} if changes else {}
        known = (config_dict.get("rope_parameters") or {}).get("rope_theta")
        if known is not None and changes.get("rope_parameters"):
            changes["rope_parameters"] = {"rope_theta": known, **changes["rope_parameters"]}
        return super().from_dict({**config_dict, **changes, **extra}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All fields; see `PreTrainedConfig`.

        `auto_map`, which names the files of code in a repository, is left out where this class does
        not come from such a file: saving would not copy them.
        """
        self._tell_peft()
        fields = super().to_dict()
        if not (fields.get("auto_map") and self.is_remote_code()):
            fields.pop("auto_map", None)
        return fields

    def _tell_peft(self) -> None:
        """Name the modules that LoRA adapts by default.

        PEFT has a table for that, and calls `to_dict` before it looks there. So it need not be
        imported here, nor before this package.
        """
        constants: Any = sys.modules.get("peft.utils.constants")
        table = getattr(constants, "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING", {})
        table.setdefault(self.model_type, list(LORA_TARGETS))

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
    def head_dim(self) -> int:
        """The same as `attention_head_size`, as transformers calls it where it makes angles."""
        return self.attention_head_size

    def convert_rope_params_to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Nothing: `rope_parameters` are set, and None without rotary positions."""
        return kwargs

    @property
    def output_attentions(self) -> bool | MapForm | None:
        """Whether to return attention maps, or in which form; see `ReformerHFModel.forward`."""
        return self._output_attentions  # type: ignore[return-value]

    @output_attentions.setter
    def output_attentions(self, value: bool | MapForm | None) -> None:
        # With any implementation, unlike in transformers: maps are always made by the eager one.
        read_output_attentions(value)
        self._output_attentions = value  # type: ignore[assignment]

    def validate_output_attentions(self) -> None:
        """Accept maps with any implementation; the setter checks the value."""

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
        if self.position_embedding_type in ("none", "rotary"):
            return None
        limit = self.max_position_embeddings or 0
        if self.position_embedding_type == "axial":
            limit = min(limit, math.prod(self.axial_pos_shape))
        return limit

    def attention_window(self, layer_type: str, causal: bool) -> Window:
        """How far the layers of a chunked type, `local` or `lsh`, look in a model so causal."""
        length, before, after = (
            getattr(self, f"{layer_type}_{name}")
            for name in ("attn_chunk_length", "num_chunks_before", "num_chunks_after")
        )
        if after is None:
            after = before if self.attention_scope == "band" and not causal else 0
        return Window(length, before, after, self.attention_scope, causal)  # type: ignore[arg-type]

    def chunk_lengths(self) -> tuple[int, ...]:
        """Chunk lengths of the chunked layers, which decide the padding in the `chunk` scope."""
        types = [kind for kind in ("local", "lsh") if kind in self.attn_layers]
        return tuple(getattr(self, f"{kind}_attn_chunk_length") for kind in types)

    def side(self, side: Side) -> Self:
        """The configuration of one side of an encoder-decoder, as of a model of its own.

        Returns:
            A copy with this side's layers; causal for the decoder.
        """
        own = copy.deepcopy(self)
        layers = own.encoder_attn_layers if side == "encoder" else own.decoder_attn_layers
        own.attn_layers = list(layers or ())
        own.is_encoder_decoder = own.tie_word_embeddings = False
        own.is_decoder = side == "decoder"
        own.encoder_attn_layers = own.decoder_attn_layers = None
        own.activation_budget = self.activation_budget // 2
        if side == "decoder":
            own.local_num_chunks_after = own.lsh_num_chunks_after = None  # for the encoder alone
        else:
            own.ff_sru_size = 0  # for the decoder alone
        return own

    def decided(self, is_decoder: bool) -> Self:
        """This configuration, or a copy where it leaves open whether the model is causal."""
        if self.is_decoder is not None:
            return self
        own = copy.deepcopy(self)
        own.is_decoder = is_decoder
        return own

    def check_fields(self) -> None:
        """Check the fields against each other; models do it again when they are built.

        Raises:
            ValueError: naming field, value and fix.
        """
        if self.is_encoder_decoder:
            check_encoder_decoder(self)
        for config in [self.side(side) for side in SIDES] if self.is_encoder_decoder else [self]:
            check_model(config)
        check_sparsity(self)


OWN_NAMES = {*ReformerHFConfig.__annotations__, *ALIASES, *LAYER_COUNTS, *ROPE_NAMES}
"""What a keyword argument may name to change a field of this class."""

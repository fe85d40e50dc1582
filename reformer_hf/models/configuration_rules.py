"""Names of a configuration's fields, what follows from those given, and the rules between them."""

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig, ReformerConfig
from transformers.activations import ACT2FN

from reformer_hf.models.rotary_rules import ROPE_NAMES, check_rotary
from reformer_hf.models.sparsity_rules import check_recurrence
from reformer_hf.nn.checks import check_kernel
from reformer_hf.nn.sparse_feed_forward import default_rank
from reformer_hf.ops.hashing import bucket_factors, default_num_buckets

STOCK_TYPE = "reformer"
"""The model type of transformers' Reformer."""

LAYER_TYPES = ("local", "lsh", "full", "full_shared_qk")
DEFAULT_HASH_LENGTH = 8192
HEAD_SIZE = 64
"""About the size of a head where only the width is given."""

LAYER_COUNTS = ("num_hidden_layers", "encoder_layers", "decoder_layers")
"""Names that are no fields: the lists of layers say it. They stand for local and LSH in turn."""

_SYNONYMS = {
    "num_layers n_layer": "num_hidden_layers",
    "d_model n_embd": "hidden_size",
    "num_heads n_head": "num_attention_heads",
    "head_dim": "attention_head_size",
    "intermediate_size ffn_dim": "feed_forward_size",
    "activation_function": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "n_positions max_seq_len max_seq_length": "max_position_embeddings",
    "dropout": "hidden_dropout_prob",
    "attention_dropout attention_probs_dropout_prob": (
        "local_attention_probs_dropout_prob lsh_attention_probs_dropout_prob"
    ),
}
ALIASES = {name: own.split() for names, own in _SYNONYMS.items() for name in names.split()}
"""Names that other models of transformers have, to the fields that they set here."""

# Entries of published files that nothing reads: kept as they are, without the meaning above.
_LEFTOVERS = """
attention_probs_dropout_prob intermediate_size num_chunks_after num_chunks_before output_past
sinusoidal_pos_embds
"""
LEFTOVERS = frozenset(_LEFTOVERS.split())

# Of transformers and its tools, besides what `PreTrainedConfig` and `GenerationConfig` have.
_TRANSFORMERS_NAMES = """
attn_implementation experts_implementation auto_map quantization_config per_layer_config torch_dtype
tie_last_hidden_states transformers_weights task_specific_params finetuning_task tokenizer_class
prefix tf_legacy_loss use_bfloat16 torchscript pruned_heads add_cross_attention
cross_attention_hidden_size tie_encoder_decoder custom_pipelines sep_token_id cls_token_id
mask_token_id unk_token_id
"""

# Of files in transformers' format: its defaults, but for what each model class decides and for a
# limit of the positions that it does not heed itself.
STOCK_DEFAULTS: dict[str, Any] = {
    name: getattr(ReformerConfig, name)
    for name in ReformerConfig.__annotations__
    if name not in ("is_decoder", "max_position_embeddings")
}

DEPENDENTS = {
    "hidden_size": (
        ["num_attention_heads", "attention_head_size", "feed_forward_size", "axial_pos_embds_dim"]
        + ["ff_sparsity_rank"]
    ),
    "feed_forward_size": ["ff_sparsity_rank"],
    "ff_sparsity": ["ff_sparsity_rank"],
    "axial_pos_shape": ["max_position_embeddings"],
    "max_position_embeddings": ["axial_pos_shape"],
    "num_hidden_layers": ["attn_layers", "encoder_attn_layers", "decoder_attn_layers"],
    "encoder_layers": ["encoder_attn_layers"],
    "decoder_layers": ["decoder_attn_layers", "attn_layers"],
    "attn_layers": ["num_hidden_layers"],
    "decoder_attn_layers": ["attn_layers"],
}
"""Field that is changed, to those that are derived again, for what a file says of them is old."""


def unknown_names(names: Iterable[str], fields: Collection[str]) -> dict[str, str]:
    """The names that mean nothing, each with advice.

    Args:
        names: as given.
        fields: the names of the configuration's fields.
    """
    known = {*fields, *ALIASES, *LAYER_COUNTS, *ROPE_NAMES, *_TRANSFORMERS_NAMES.split()}
    known |= GenerationConfig._get_default_generation_params().keys()
    advice = {}
    for name in names:
        if name in known or name.startswith("_") or hasattr(PreTrainedConfig, name):
            continue
        near = difflib.get_close_matches(name, sorted(known), n=1)
        advice[name] = f"did you mean {near[0]}?" if near else "leave it out"
    return advice


def own_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields, under our own names.

    Raises:
        ValueError: if two names give one field different values.
    """
    found, givers = {}, {}
    for name, value in fields.items():
        for own in ALIASES.get(name, (name,)):
            if own in found and found[own] != value:
                raise ValueError(
                    f"{givers[own]}={found[own]!r} and {name}={value!r} are two names of one "
                    f"field: give {own} alone"
                )
            found[own], givers[own] = value, name
    return found


def axial_shape(positions: int, axes: int = 2) -> list[int]:
    """Lengths of axes, about equal, whose product covers a number of positions."""
    shape = [2 ** round(math.log2(max(1, positions)) / axes)] * (axes - 1)
    return [*shape, math.ceil(positions / math.prod(shape))]


def derive_fields(
    config: Any, given: Mapping[str, Any], source: str | None, by_hand: Collection[str]
) -> None:
    """Set what was not given to what follows from the rest.

    Args:
        config: whose fields are set; those not given have their defaults.
        given: the fields given, under our own names; None counts as not given.
        source: model type of the saved dictionary that they come from, if any.
        by_hand: names of those that do not.

    Raises:
        ValueError: if what was given is contradictory.
    """
    is_stock = source == STOCK_TYPE
    given = {name: value for name, value in given.items() if value is not None}
    for name in ("axial_pos_shape", "axial_pos_embds_dim"):
        _check_positive(name, given.get(name, ()))
    _derive_layers(config, given)
    _derive_widths(config, given)
    if config.attention_scope is None:
        config.attention_scope = "chunk" if is_stock else "band"
    if config.share_rotations is None:
        config.share_rotations = is_stock
    if config.redraw_rotations is None:
        config.redraw_rotations = not (is_stock and config.hash_seed is not None)
    _derive_positions(config, given, is_stock)
    _refuse_small_grid(config, by_hand)
    _derive_buckets(config)
    config.ngram_sizes = sorted(config.ngram_sizes)
    if "axial_norm_std" not in given:
        config.axial_norm_std = config.initializer_range


def _layers(count: int) -> list[str]:
    return [("local", "lsh")[index % 2] for index in range(count)]


def _derive_layers(config: Any, given: Mapping[str, Any]) -> None:
    for count in LAYER_COUNTS:
        number = given.get(count, 1)
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{count}={number!r}: give a number of layers, at least 1")
    counts = {"attn_layers": "num_hidden_layers"}
    if config.is_encoder_decoder or {"encoder_layers", "decoder_layers"} & given.keys():
        counts = {f"{side}_attn_layers": f"{side}_layers" for side in ("encoder", "decoder")}
    for name, count in counts.items():
        if count not in given and name not in given:
            count = "num_hidden_layers"
        if count not in given:
            continue
        if name not in given:
            setattr(config, name, _layers(given[count]))
        elif len(given[name]) != given[count]:
            raise ValueError(
                f"{count}={given[count]} but {name} has {len(given[name])} entries: give {name} "
                f"one entry per layer and leave {count} out"
            )
    _derive_sides(config, "attn_layers" in given)
    config.attn_layers = list(config.attn_layers)


def _derive_sides(config: Any, has_layers: bool) -> None:
    """Take `attn_layers` from the decoder, whose layers have a cache."""
    sides = ("encoder_attn_layers", "decoder_attn_layers")
    if not config.is_encoder_decoder:
        for name in sides:
            if getattr(config, name) is not None:
                raise ValueError(
                    f"{name}={getattr(config, name)!r} with is_encoder_decoder=False: set "
                    "is_encoder_decoder to True, or give attn_layers"
                )
        return
    for name in sides:
        layers = getattr(config, name)
        if not layers or set(layers) - set(LAYER_TYPES):
            raise ValueError(
                f"{name}={layers!r} with is_encoder_decoder=True: give at least one layer, each "
                f"one of {', '.join(map(repr, LAYER_TYPES))}; or set is_encoder_decoder to False"
            )
        setattr(config, name, list(layers))
    if has_layers and list(config.attn_layers) != config.decoder_attn_layers:
        raise ValueError(
            f"attn_layers={config.attn_layers!r} with is_encoder_decoder=True: give "
            "encoder_attn_layers and decoder_attn_layers instead"
        )
    config.attn_layers = config.decoder_attn_layers


def _derive_widths(config: Any, given: Mapping[str, Any]) -> None:
    dims = list(given.get("axial_pos_embds_dim", ()))
    if dims and "hidden_size" not in given:
        config.hidden_size = sum(dims)
    width = config.hidden_size
    if "num_attention_heads" not in given:
        head = given.get("attention_head_size")
        near = round(width / HEAD_SIZE) if head is None else width // max(1, head)
        heads = range(max(1, near), 0, -1)
        config.num_attention_heads = next(n for n in heads if head or width % n == 0)
    if "attention_head_size" not in given:
        config.attention_head_size = max(1, width // max(1, config.num_attention_heads))
    if "feed_forward_size" not in given:
        config.feed_forward_size = 4 * width
    if config.ff_sparsity > 0 and "ff_sparsity_rank" not in given:
        config.ff_sparsity_rank = default_rank(width, config.feed_forward_size, config.ff_sparsity)
    axes = len(given.get("axial_pos_shape", config.axial_pos_shape))
    if not dims and axes:
        dims = [width // axes] * (axes - 1)
        dims.append(width - sum(dims))
    config.axial_pos_embds_dim = dims


def _derive_positions(config: Any, given: Mapping[str, Any], is_stock: bool) -> None:
    if config.position_embedding_type is None:
        config.position_embedding_type = "axial" if config.axial_pos_embds else "learned"
    if config.position_embedding_type == "axial" and not config.axial_pos_embds:
        raise ValueError(
            "axial_pos_embds=False with position_embedding_type='axial': leave axial_pos_embds "
            "out, and set position_embedding_type to 'learned' or 'none' for other positions"
        )
    config.axial_pos_embds = config.position_embedding_type == "axial"
    limit = given.get("max_position_embeddings")
    if "axial_pos_shape" not in given and limit is not None and limit > 0:
        config.axial_pos_shape = axial_shape(limit, max(2, len(config.axial_pos_embds_dim)))
    config.axial_pos_shape = list(config.axial_pos_shape)
    if limit is None and config.position_embedding_type not in ("none", "rotary"):
        learned = 4096 if is_stock else DEFAULT_HASH_LENGTH
        product = math.prod(config.axial_pos_shape)
        config.max_position_embeddings = product if config.axial_pos_embds else learned


def _refuse_small_grid(config: Any, by_hand: Collection[str]) -> None:
    """Old files may have one: there the smaller limit holds."""
    limit, product = config.max_position_embeddings, math.prod(config.axial_pos_shape)
    if config.axial_pos_embds and limit > product and "max_position_embeddings" in by_hand:
        raise ValueError(
            f"max_position_embeddings={limit} is more than the {product} positions of "
            f"axial_pos_shape={config.axial_pos_shape!r}: leave one of the two out"
        )


def _derive_buckets(config: Any) -> None:
    if config.hash_length is None:
        limit = config.position_limit
        config.hash_length = min(limit or DEFAULT_HASH_LENGTH, DEFAULT_HASH_LENGTH)
    if isinstance(config.num_buckets, tuple):
        config.num_buckets = list(config.num_buckets)
    hashes = "lsh" in [*config.attn_layers, *(config.encoder_attn_layers or ())]
    if config.num_buckets is None and hashes and config.lsh_attn_chunk_length:
        window = config.lsh_attn_chunk_length * max(1, config.lsh_num_chunks_before or 0)
        config.num_buckets = default_num_buckets(config.hash_length, window)


def check_model(config: Any) -> None:
    """Check the fields of one side, or of a model without sides, against each other."""
    _check_layers(config)
    _check_choices(config, output_streams=("both", "mean"))
    _check_sizes(config)
    sizes = config.ngram_sizes
    if any(size < 2 for size in sizes) or len({*sizes}) != len(sizes):
        raise ValueError(
            f"ngram_sizes={sizes!r}: give different numbers of tokens, each at least 2"
        )
    check_kernel(config.conv_kernel)
    if config.ff_sru_size and config.is_decoder is not None:
        check_recurrence(config)
    if config.position_embedding_type == "axial":
        _check_axes(config)
    if config.position_embedding_type == "rotary":
        check_rotary(config)
    elif config.rope_parameters:
        raise ValueError(
            f"rope_parameters={config.rope_parameters!r} with position_embedding_type="
            f"{config.position_embedding_type!r}: set them to None"
        )
    _check_windows(config)
    if config.tie_word_embeddings:
        raise ValueError(
            "tie_word_embeddings=True: the output projection reads both streams and is "
            f"{2 * config.hidden_size} wide, the embeddings are {config.hidden_size} wide; "
            "set it to False"
        )


def check_encoder_decoder(config: Any) -> None:
    """Check the fields that an encoder-decoder has besides those of its sides."""
    _check_choices(config, decoder_form=("cross_attention", "packed"))
    if config.ngram_sizes:
        raise ValueError(
            f"ngram_sizes={config.ngram_sizes!r} with is_encoder_decoder=True: its decoder reads "
            "vectors, not token ids; leave it out"
        )
    if config.output_streams == "mean":
        raise ValueError(
            "output_streams='mean' with is_encoder_decoder=True: the decoder reads both streams of "
            "the encoder's output; leave output_streams out"
        )
    if config.attention_scope == "chunk":
        raise ValueError(
            "attention_scope='chunk' with is_encoder_decoder=True: that scope is for published "
            "decoders, whose outputs move with later tokens; use 'band'"
        )
    start = config.decoder_start_token_id
    if start is not None and not 0 <= start < config.vocab_size:
        raise ValueError(
            f"decoder_start_token_id={start} is not below vocab_size={config.vocab_size}: give the "
            "id of a token"
        )


def _check_choices(config: Any, **choices: tuple[str, ...]) -> None:
    for name, some in choices.items():
        if getattr(config, name) not in some:
            raise ValueError(f"{name}={getattr(config, name)!r}: choose one of {some}")


def _check_layers(config: Any) -> None:
    _check_choices(
        config,
        attention_scope=("band", "chunk"),
        position_embedding_type=("axial", "learned", "rotary", "none"),
    )
    wrong = [kind for kind in config.attn_layers if kind not in LAYER_TYPES]
    if wrong or not config.attn_layers:
        raise ValueError(
            f"attn_layers={config.attn_layers!r}: give at least one layer, each one of "
            f"{', '.join(map(repr, LAYER_TYPES))}"
        )
    if config.hidden_act not in ACT2FN:
        raise ValueError(
            f"hidden_act={config.hidden_act!r} is not an activation of transformers: "
            "choose one of transformers.activations.ACT2FN, such as 'relu' or 'gelu'"
        )


def _check_axes(config: Any) -> None:
    shape, dims = config.axial_pos_shape, config.axial_pos_embds_dim
    _check_positive("axial_pos_shape", shape)
    _check_positive("axial_pos_embds_dim", dims)
    if len(shape) < 2 or len(shape) != len(dims):
        raise ValueError(
            f"axial_pos_shape={shape!r} and axial_pos_embds_dim={dims!r}: give the same "
            "number of axes, at least two, in both"
        )
    if sum(dims) != config.hidden_size:
        raise ValueError(
            f"axial_pos_embds_dim={dims!r} sums to {sum(dims)}, but hidden_size="
            f"{config.hidden_size}: make the dimensions add up to hidden_size"
        )


def _check_windows(config: Any) -> None:
    if config.num_buckets is not None:
        bucket_factors(config.num_buckets)
    for kind in ("local", "lsh"):
        if kind not in config.attn_layers:
            continue
        for needed, least in ((f"{kind}_attn_chunk_length", 1), (f"{kind}_num_chunks_before", 0)):
            if getattr(config, needed) is None:
                raise ValueError(
                    f"{needed}=None with {kind!r} in attn_layers: give an int of at least {least}"
                )
        name = f"{kind}_num_chunks_after"
        after = getattr(config, name)
        if after and config.is_decoder:
            raise ValueError(
                f"{name}={after!r} with is_decoder=True: a causal layer cannot look ahead; "
                f"set {name} to 0"
            )
    if "lsh" not in config.attn_layers:
        return
    if config.lsh_local_round and config.attention_scope == "chunk":
        raise ValueError(
            "lsh_local_round=True with attention_scope='chunk': use the band scope, or leave it out"
        )
    if config.lsh_next_values and not config.lsh_local_round:
        raise ValueError(
            "lsh_next_values=True without a local round, in which every token but the first sees "
            "another: set lsh_local_round to True"
        )
    window = config.attention_window("lsh", causal=False)
    if config.attention_scope == "band" and len(window.offsets) == 1:
        raise ValueError(
            "lsh_num_chunks_before=0 and lsh_num_chunks_after=0 in the band scope: a query "
            "would see only itself; set lsh_num_chunks_before to at least 1"
        )


def _check_positive(name: str, lengths: Collection[int]) -> None:
    if any(length < 1 for length in lengths):
        raise ValueError(f"{name}={lengths!r} must be positive")


def _check_sizes(config: Any) -> None:
    for names, least, below, advice in _BOUNDS:
        for name in names.split():
            value = getattr(config, name)
            if value is not None and not least <= value < below:
                raise ValueError(f"{name}={value!r} must be {advice}")


_SIZES = """
hidden_size num_attention_heads attention_head_size feed_forward_size num_hashes vocab_size
max_position_embeddings hash_length local_attn_chunk_length lsh_attn_chunk_length
ngram_table_size ff_sru_layers ff_sparsity_rank
"""
_LOOKS = """
local_num_chunks_before local_num_chunks_after lsh_num_chunks_before lsh_num_chunks_after
"""
_CHUNKS = "chunk_size_attention_heads chunk_size_feed_forward chunk_size_lm_head"
_DROPOUTS = """
hidden_dropout_prob local_attention_probs_dropout_prob lsh_attention_probs_dropout_prob
classifier_dropout
"""
_BOUNDS = (
    (_SIZES, 1, math.inf, "at least 1"),
    (_LOOKS, 0, math.inf, "at least 0"),
    (_CHUNKS, 0, math.inf, "0 (no chunks), or a number of heads or tokens"),
    ("ff_sru_size", 0, math.inf, "0 (no recurrent units), or their width"),
    ("activation_budget", 0, math.inf, "0 (rebuild all activations) or a number of bytes"),
    ("ff_sparsity", 0, math.inf, "0 (use all units) or a number of units"),
    ("ff_sparsity_hard_share", 0, math.nextafter(1, 2), "in [0, 1]"),
    ("ff_sparsity_temperature", 0, math.inf, "at least 0"),
    ("initializer_range axial_norm_std layer_norm_eps", 0, math.inf, "at least 0"),
    (_DROPOUTS, 0, 1, "in [0, 1)"),
)
"""Fields, their least value, what they are below, and advice."""

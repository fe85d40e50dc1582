"""Reading a model's inputs: what is accepted, where documents begin, which positions they have."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils.generic import TransformersKwargs
from transformers.utils.import_utils import is_tracing

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.ops.derivatives import transform_runs
from reformer_hf.ops.sorting import number_documents, places_in_document


class RowLayout(NamedTuple):
    """How the rows of a batch are laid out.

    Attributes:
        documents: document of each place, padding last, (batch, seq); None for whole rows.
        position_ids: position of each place, (batch, seq).
    """

    documents: Tensor | None
    position_ids: Tensor


def check_other_arguments(
    config: ReformerHFConfig, arguments: dict[str, Any], packed: bool
) -> None:
    """Refuse keyword arguments that nobody reads, or whose meaning would be ignored.

    Args:
        config: the configuration.
        arguments: keyword arguments that the forward has no parameter for.
        packed: whether `seq_idx` or `position_ids` are given, which say what `cu_seq_lens_*` do.

    Raises:
        TypeError: if one is not among transformers' `TransformersKwargs`, or `token_type_ids`.
        ValueError: if one asks for what this model does not do.
    """
    # Tokenizers of other models return them, all 0 for a single text.
    types = arguments.get("token_type_ids")
    if types is not None and not is_tracing(types) and torch.as_tensor(types).any():
        raise ValueError(
            "token_type_ids has values other than 0: this model knows one type of token; leave it "
            "out (tokenizer(..., return_token_type_ids=False)), and tell parts by a token between"
        )
    known = {*TransformersKwargs.__annotations__, "token_type_ids"}
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise TypeError(
            f"forward() got an unexpected keyword argument {unknown[0]!r}; "
            "check its spelling, or leave it out"
        )
    causal = arguments.get("is_causal")
    if causal is not None and causal != bool(config.is_decoder):
        raise ValueError(
            f"is_causal={causal} with is_decoder={config.is_decoder}: whether attention is causal "
            "is a matter of the configuration; set is_decoder there"
        )
    lengths = [
        name for name in ("cu_seq_lens_q", "cu_seq_lens_k") if arguments.get(name) is not None
    ]
    if lengths and not packed:
        raise ValueError(
            f"{lengths[0]} without seq_idx: say which document each token of a packed row belongs "
            "to with seq_idx, or with position_ids that restart"
        )


def check_inputs(
    config: ReformerHFConfig,
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
) -> None:
    """Check shapes and ranges of a forward's inputs.

    Values are looked at on the CPU only: elsewhere that would make the host wait for the device.

    Raises:
        ValueError: naming the argument, its value and the fix.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    if inputs_embeds is not None and config.ngram_sizes:
        raise ValueError(
            f"inputs_embeds with ngram_sizes={config.ngram_sizes}: n-grams are looked up by token "
            "id; give input_ids"
        )
    if input_ids is not None:
        check_ids("input_ids", input_ids, config.vocab_size)
    else:
        assert inputs_embeds is not None
        require_tensor("inputs_embeds", inputs_embeds)
        if not inputs_embeds.is_floating_point():
            raise ValueError(
                f"inputs_embeds has dtype {inputs_embeds.dtype}: give floating-point vectors, or "
                "token ids as input_ids"
            )
        embedded = inputs_embeds.shape
        if len(embedded) != 3 or 0 in embedded or embedded[-1] != config.hidden_size:
            raise ValueError(
                f"inputs_embeds has shape {tuple(embedded)}: it must be (batch, seq, hidden_size="
                f"{config.hidden_size}) with at least one row and one token"
            )
    if attention_mask is None:
        return
    require_tensor("attention_mask", attention_mask)
    if can_look(attention_mask) and not ((attention_mask == 0) | (attention_mask == 1)).all():
        raise ValueError("attention_mask has values other than 0 (padding) and 1 (real token)")


def check_ids(name: str, ids: Tensor, vocab_size: int) -> None:
    """Check token ids, their values on the CPU only.

    Raises:
        ValueError: naming the argument, its value and the fix.
    """
    require_integers(name, ids)
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(
            f"{name} has shape {tuple(ids.shape)}: it must be (batch, seq) with at least one row "
            "and one token"
        )
    if can_look(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise ValueError(
            f"{name} has ids from {int(ids.min())} to {int(ids.max())}, but vocab_size="
            f"{vocab_size}: use the tokenizer of this model, or resize_token_embeddings"
        )


def lay_out_rows(
    config: ReformerHFConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
) -> RowLayout:
    """Find the documents and positions of each row.

    Raises:
        ValueError: if packed rows meet the `chunk` scope, or a position is beyond the limit.
    """
    given = (attention_mask, position_ids, seq_idx)
    attention_mask, position_ids, seq_idx = read_rows(inputs_embeds, *given)
    batch, seq = inputs_embeds.shape[:2]
    documents = find_documents(batch, attention_mask, position_ids, seq_idx)
    if config.attention_scope == "chunk" and _is_packed(documents, attention_mask):
        raise ValueError(
            "packed rows (seq_idx, or position_ids that restart) with attention_scope='chunk': its "
            "chunks mix documents; give each document a row, or use the band scope"
        )
    if config.attention_scope == "chunk" and documents is not None:
        # One document a row, whatever its number: what is left to tell is the padding.
        padding = torch.zeros_like(documents) if attention_mask is None else attention_mask == 0
        documents = padding.to(documents)
    if position_ids is None:
        if documents is None:
            check_positions(config.position_limit, 0, seq - 1)  # which any device knows
            position_ids = torch.arange(seq, device=inputs_embeds.device).expand(batch, -1)
        else:
            position_ids = places_in_document(documents)
    if attention_mask is not None:
        # Padding needs no position of its own: there may be more of it than there are positions.
        position_ids = position_ids.masked_fill(attention_mask == 0, 0)
    if can_look(position_ids):
        check_positions(config.position_limit, int(position_ids.min()), int(position_ids.max()))
    return RowLayout(documents, position_ids)


def read_rows(
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Check the shapes of what is given of each token; the last three come back as (batch, seq).

    Raises:
        ValueError: naming the argument and its shape.
    """
    batch, seq = inputs_embeds.shape[:2]
    if attention_mask is not None and attention_mask.shape != (batch, seq):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, the input has "
            f"{(batch, seq)}: give one 0 or 1 per token"
        )
    if seq_idx is not None:
        seq_idx = expand_rows("seq_idx", seq_idx, batch, seq)
    if position_ids is not None:
        position_ids = expand_rows("position_ids", position_ids, batch, seq)
    return attention_mask, position_ids, seq_idx


def check_hashing(
    config: ReformerHFConfig, num_hashes: int | None, hash_decisions: Sequence[Any] | None
) -> None:
    """Check the arguments of a forward that say how to hash.

    Raises:
        ValueError: naming the argument, its value and the fix.
    """
    if num_hashes is not None and (not isinstance(num_hashes, int) or num_hashes < 1):
        raise ValueError(
            f"num_hashes={num_hashes!r} must be an int of at least 1; leave it out for the "
            f"configuration's {config.num_hashes}"
        )
    if hash_decisions is not None and config.chunk_size_attention_heads:
        raise ValueError(
            "hash_decisions with chunk_size_attention_heads="
            f"{config.chunk_size_attention_heads}: each group of heads decides by itself; set "
            "chunk_size_attention_heads to 0"
        )
    if hash_decisions is not None and len(hash_decisions) != config.num_hidden_layers:
        raise ValueError(
            f"hash_decisions has {len(hash_decisions)} entries: give one Decision for each of the "
            f"{config.num_hidden_layers} layers"
        )


def require_whole_rows(
    attention_mask: Tensor | None, position_ids: Tensor | None, seq_idx: Tensor | None
) -> None:
    """Refuse packed rows where a head gives one answer per row, and rows of padding alone.

    Raises:
        ValueError: naming the argument and the fix.
    """
    for name, tensor in (("attention_mask", attention_mask), ("position_ids", position_ids)):
        if tensor is not None:
            require_tensor(name, tensor)
    packed = seq_idx is not None
    if not packed and attention_mask is None and position_ids is not None:
        packed = can_look(position_ids) and (torch.diff(position_ids, dim=-1) != 1).any()
    if packed:
        raise ValueError(
            "packed rows (seq_idx, or position_ids that restart) with a head that gives one answer "
            "per row: give each document a row of its own"
        )
    if attention_mask is not None and can_look(attention_mask):
        empty = (attention_mask == 0).all(dim=-1)
        if empty.any():
            raise ValueError(
                f"attention_mask has no real token in row {int(empty.nonzero()[0])}: leave rows "
                "without text out"
            )


def find_documents(
    batch: int, attention_mask: Tensor | None, position_ids: Tensor | None, seq_idx: Tensor | None
) -> Tensor | None:
    """Document numbers, or None for whole rows.

    Args:
        batch: rows.
        attention_mask: as given to the model.
        position_ids: the same, (batch, seq).
        seq_idx: as given to the model.
    """
    if seq_idx is None and attention_mask is None and position_ids is not None:
        # As in transformers' masking, a step other than 1 begins a document.
        steps = torch.diff(position_ids, dim=-1, prepend=position_ids[:, :1] - 1)
        seq_idx = (steps != 1).long().cumsum(dim=-1)
        if not is_tracing(seq_idx) and not seq_idx.any():
            seq_idx = None
    if attention_mask is not None:
        attention_mask = attention_mask.bool()
        if not is_tracing(attention_mask) and attention_mask.all():
            attention_mask = None
    if seq_idx is not None:
        seq_idx = seq_idx.expand(batch, -1)
    return number_documents(attention_mask, seq_idx)


def _is_packed(documents: Tensor | None, attention_mask: Tensor | None) -> bool:
    """Whether a row holds more than one document besides padding."""
    if documents is None or is_tracing(documents):
        return False
    padding = torch.zeros_like(documents, dtype=torch.bool)
    if attention_mask is not None:
        padding = attention_mask == 0
    highest = documents.masked_fill(padding, -1).amax(dim=-1)
    lowest = documents.masked_fill(padding, int(documents.max())).amin(dim=-1)
    return bool((highest > lowest).any())


def check_positions(limit: int | None, low: int, high: int) -> None:
    if limit is not None and not 0 <= low <= high < limit:
        raise ValueError(
            f"position {high if high >= limit else low} is outside the {limit} positions of this "
            "model: shorten the input, raise axial_pos_shape or max_position_embeddings before "
            "training, or use position_embedding_type='none'"
        )


def expand_rows(name: str, numbers: Tensor, batch: int, seq: int) -> Tensor:
    """Check a number per token of each row, or of all rows; returns (batch, seq)."""
    require_integers(name, numbers)
    if numbers.shape not in ((seq,), (1, seq), (batch, seq)):
        raise ValueError(
            f"{name} has shape {tuple(numbers.shape)}: give one number per token, {(batch, seq)}"
        )
    return numbers.expand(batch, -1)


def require_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}: give a tensor")


def require_integers(name: str, tensor: Tensor) -> None:
    require_tensor(name, tensor)
    if tensor.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} has dtype {tensor.dtype}: give integers, torch.int64 or int32")


def can_look(tensor: Tensor) -> bool:
    """Whether values can be asked for, without waiting for a device or breaking a transform."""
    return tensor.device.type == "cpu" and not is_tracing(tensor) and not transform_runs()

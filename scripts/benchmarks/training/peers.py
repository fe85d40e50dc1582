"""The models of the training benchmark, each as a function from tokens to a next-token loss."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scripts.benchmarks.common.peers import VARIANTS, ModelShape, axial_shape, build

FLOOR = "floor"
MODELS = VARIANTS | {"lucid": "reformer-pytorch"}
TRAINING_VARIANTS = MODELS | {FLOOR: "matrix products alone (the floor)"}
"""Names of the variants in arguments and files, to names in tables."""


class Trainee(NamedTuple):
    """A model that can be trained.

    Attributes:
        model: with random weights and no dropout.
        loss: mean cross-entropy of the next tokens of ids, (batch, seq).
    """

    model: nn.Module
    loss: Callable[[Tensor], Tensor]


def lucid_is_installed() -> bool:
    """Whether there is the package reformer-pytorch."""
    return find_spec("reformer_pytorch") is not None


def build_trainee(variant: str, shape: ModelShape, length: int) -> Trainee:
    """Build a model for rows of one length.

    Args:
        variant: one of `MODELS`.
        shape: the sizes; all but `max_positions`, which is the length, because transformers'
            Reformer trains only at the product of its axial shape.
        length: tokens of a row.

    Returns:
        The model.
    """
    shape = replace(shape, max_positions=length)
    if variant == "lucid":
        return _build_lucid(shape)
    # The length of a block of a prefill, which does not happen here.
    model = build(variant, shape, prefill_tokens=length).model
    return Trainee(model, lambda ids: model(input_ids=ids, labels=ids, use_cache=False).loss)


def problem_with_length(variant: str, shape: ModelShape, length: int) -> str | None:
    """Why a variant cannot be trained at a length, or None."""
    multiple = 2 * shape.attn_chunk_length
    if variant == "lucid" and length % multiple:
        return f"lengths={length}: `lucid` needs multiples of 2 chunks, {multiple} tokens"
    rows, columns = axial_shape(length)
    if variant == "stock" and rows * columns != length:
        return (
            f"lengths={length}: `stock` trains only at the product of its two axes, which is "
            f"{rows * columns}: use powers of 2"
        )
    return None


def _build_lucid(shape: ModelShape) -> Trainee:
    """The reversible Reformer of reformer-pytorch; all its layers are LSH."""
    reformer_pytorch = import_module("reformer_pytorch")  # optional
    inner, rest = divmod(shape.feed_forward_size, shape.hidden_size)
    if rest:
        raise ValueError(
            f"feed_forward_size={shape.feed_forward_size}: reformer-pytorch needs a multiple of "
            f"hidden_size={shape.hidden_size}"
        )
    model = reformer_pytorch.ReformerLM(
        num_tokens=shape.vocab_size,
        dim=shape.hidden_size,
        depth=shape.num_hidden_layers,
        max_seq_len=shape.max_positions,
        heads=shape.num_attention_heads,
        dim_head=shape.hidden_size // shape.num_attention_heads,
        bucket_size=shape.attn_chunk_length,
        n_hashes=shape.num_hashes,
        ff_mult=inner,
        ff_chunks=1,  # its default of 100 parts is slower, and ours does not split either
        causal=True,
        axial_position_emb=True,
        axial_position_shape=axial_shape(shape.max_positions),
        full_attn_thres=0,
        n_local_attn_heads=0,
    )

    def loss(ids: Tensor) -> Tensor:
        logits = model(ids)[:, :-1].flatten(0, 1)
        return cross_entropy(logits.float(), ids[:, 1:].flatten())

    return Trainee(model, loss)

"""The packed decoder: encoder output and target stand in one causal row.

A decoder without cross-attention reads the source by its self-attention, LSH attention included,
since the encoder output comes before the target in its row. Each part counts its positions from
zero, so that the n-th tokens of source and target get the same position embedding.

Source: Jaszczur et al. 2021, "Sparse is Enough in Scaling Transformers" (arXiv 2111.12763),
section on Terraformer.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reformer_hf.models.cache_reformer_hf import ReformerHFCache
from reformer_hf.ops.attention_map import AttentionMap


class PackedRows(NamedTuple):
    """What a packed decoder reads.

    Attributes:
        inputs_embeds: encoder output brought to the width of a stream, then embedded target tokens,
            (batch, source + target, hidden); the latter alone after the first pass with a cache.
        attention_mask: 1 at real tokens of both, of the same length. Padding of the source stays
            where it is, before the target, and is no token of the row to any layer.
        position_ids: place among the real tokens of the own part, of the same length.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor


class ReformerHFPackedCache(ReformerHFCache):
    """The cache of a packed decoder; its length is that of the target."""

    source_length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Target tokens of each row so far, padding included."""
        return max(0, super().get_seq_length(layer_idx) - self.source_length)

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last target tokens; see `ReformerHFCache.crop`."""
        if -tokens_to_remove > self.get_seq_length():
            raise ValueError(
                f"crop({tokens_to_remove}): the target has {self.get_seq_length()} tokens so far; "
                "to forget the source, too, call reset()"
            )
        super().crop(tokens_to_remove)

    def target_places(self, source_mask: Tensor | None) -> Tensor | int:
        """How many real tokens the target of each row has so far, (batch, 1) or for all rows.

        Args:
            source_mask: 1 at real tokens of the source, (batch, source); None if all are.
        """
        padding = self.layers[0].padding
        if padding is None:
            return self.get_seq_length()
        if source_mask is not None:
            padding = padding.to(source_mask.device) - (source_mask == 0).sum(dim=1)
        return self.get_seq_length() - padding.unsqueeze(1)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.source_length = 0


def pack_rows(
    source: Tensor | None,
    embedded: Tensor,
    source_mask: Tensor | None,
    target_mask: Tensor | None,
    cache: ReformerHFPackedCache | None = None,
) -> PackedRows:
    """Lay out the rows of a pass.

    Args:
        source: encoder output brought to the width of a stream, (batch, source, hidden); None if
            the cache has it.
        embedded: new target tokens, (batch, target, hidden).
        source_mask: 1 at real tokens of the source, (batch, source); None if all are.
        target_mask: 1 at real tokens of the target, (batch, target), or of all that are new or
            cached; None if all are.
        cache: of the tokens before; the first pass puts the source into it.

    Returns:
        The rows.

    Raises:
        ValueError: if the target's mask has another shape.
    """
    batch, new = embedded.shape[:2]
    cached = 0 if cache is None else cache.get_seq_length()
    if target_mask is None:
        target_mask = torch.ones(batch, new, dtype=torch.long, device=embedded.device)
    if target_mask.shape not in ((batch, new), (batch, cached + new)):
        raise ValueError(
            f"decoder_attention_mask has shape {tuple(target_mask.shape)}: with {cached} cached "
            f"and {new} new target tokens give one 0 or 1 for each of all, {(batch, cached + new)}"
        )
    target_mask = target_mask[:, -new:].long()
    places = target_mask.cumsum(dim=1) - 1
    if source is None:
        assert cache is not None
        places = places + cache.target_places(source_mask)
        return PackedRows(embedded, target_mask, places.clamp(min=0))
    if cache is not None:
        cache.source_length = source.shape[1]
    if source_mask is None:
        source_mask = torch.ones(source.shape[:2], dtype=torch.long, device=source.device)
    source_mask = source_mask.long()
    return PackedRows(
        torch.cat([source, embedded], dim=1),
        torch.cat([source_mask, target_mask], dim=1),
        torch.cat([source_mask.cumsum(dim=1) - 1, places], dim=1).clamp(min=0),
    )


def split_map(
    found: AttentionMap | Tensor, source: int, target: int
) -> tuple[AttentionMap | Tensor, Tensor]:
    """Split the map of packed rows into the target's two: of itself, and of the source.

    Args:
        found: of either form, its queries the new tokens, its keys all tokens so far.
        source: tokens of the source.
        target: new tokens of the target, the last queries.

    Returns:
        The map of the target in the form of ``found``, and that of the source, which is always
        dense, (batch, heads, target, source).
    """
    if isinstance(found, Tensor):
        rows = found[:, :, -target:]
        return rows[..., source:], rows[..., :source]
    weights, places = (part[:, :, :, -target:] for part in found)
    of_source = places < source
    own = AttentionMap(weights.masked_fill(of_source, 0), (places - source).clamp(min=-1))
    read = AttentionMap(weights, places.masked_fill(~of_source, -1))
    return own, read.to_dense(source)

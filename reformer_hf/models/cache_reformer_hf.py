"""The cache of generation, on transformers' cache protocol."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from reformer_hf.nn.past.base import NewTokens, Past
from reformer_hf.nn.past.recent_inputs import RecentInputs
from reformer_hf.nn.self_attention import Hashing, SelfAttention


class ReformerHFCacheLayer(CacheLayerMixin):
    """What one layer remembers; its attention makes the `past` at the first tokens."""

    _layer_type = "reformer_hf"
    is_croppable = True

    # Without that of the mixin, which would set keys and values.
    def __init__(self) -> None:
        self.is_initialized = False
        self.past: Past | None = None
        self.tokens = RecentInputs()  # of the first layer: the last ids, where n-grams see them
        self.record_past = False
        self.padding: Tensor | None = None  # padding tokens of each row, (batch,); None: never any
        self.since_padding = 0  # last tokens, none of which is padding in any row
        self.in_pass = False  # of the first layer: whether a pass through the model is under way
        self.device: torch.device | None = None  # where the past belongs while it is offloaded

    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]
        """Keys that are remembered, (batch, heads, seq, head_dim); None before the first tokens.

        In order of the row, of a local layer only the last ones, those that a later token can still
        see; of a layer that shares queries and keys, at unit length (times `sqrt(head_dim)`).
        Behind a prompt that several processes read: see `Past.keys`.
        """
        return None if self.past is None else self.past.keys

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        """Values of the same tokens, of the same shape."""
        return None if self.past is None else self.past.values

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first tokens."""
        return -1 if self.past is None else self.past.rows

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the first tokens bring all that is needed."""

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: keys and values alone do not say which buckets they belong to."""
        raise TypeError(
            "a Reformer's cache is filled by its own layers only: give it to the model as "
            "past_key_values instead of calling update()"
        )

    def fetch(self, new_past: Callable[[], Past], new: NewTokens) -> Past:
        """Bring what is remembered to its device, for tokens that it will now remember, too.

        Args:
            new_past: makes an empty past, for the first tokens.
            new: where the tokens stand.

        Returns:
            The past of the layer.
        """
        self.prefetch()
        if self.past is None:
            self.past = new_past()
            self.is_initialized = True
        self.past.recording = self.record_past
        self._count(new)
        return self.past

    def activate_past_recording(self) -> None:
        """Keep what `crop` needs, from now until the next `crop` and after it."""
        self.record_past = True

    def get_seq_length(self) -> int:
        """Tokens of each row so far, padding included."""
        return 0 if self.past is None else self.past.length

    def get_max_length(self) -> int:
        """No limit: -1."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a mask would cover."""
        return self.get_seq_length() + query_length, 0

    def check_crop(self, tokens_to_remove: int) -> None:
        """Check that `crop` can be done.

        Args:
            tokens_to_remove: minus their number.

        Raises:
            ValueError: if it is positive, or there are fewer tokens.
            RuntimeError: if what was overwritten was not recorded, or padding was among the tokens.
        """
        count, length = -tokens_to_remove, self.get_seq_length()
        if not 0 <= count <= length:
            raise ValueError(
                f"crop({tokens_to_remove}): give minus the number of tokens to take back, of the "
                f"{length} that there are"
            )
        if count in (0, length) or self.past is None:
            return
        if self.padding is not None and count > self.since_padding:
            raise RuntimeError(
                f"crop({tokens_to_remove}): only {self.since_padding} tokens came after the last "
                "padding, and padded tokens cannot be taken back; start from an empty cache"
            )
        if not (self.past.can_drop(count) and self.tokens.can_drop(count)):
            raise RuntimeError(
                f"crop({tokens_to_remove}): what these tokens overwrote is gone; call "
                "activate_past_recording() on the cache before the pass that may be taken back"
            )

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last tokens, as if they had never been.

        Args:
            tokens_to_remove: minus their number; 0 forgets what was recorded.

        Raises:
            ValueError: see `check_crop`, as for RuntimeError.
        """
        self.check_crop(tokens_to_remove)
        if tokens_to_remove and -tokens_to_remove == self.get_seq_length():
            self.reset()
        elif self.past is not None:
            self.past.drop_last(-tokens_to_remove)
            self.tokens.drop_last(-tokens_to_remove)
            self.since_padding += tokens_to_remove

    def reset(self) -> None:
        """Forget everything."""
        self.past, self.padding, self.since_padding = None, None, 0
        self.tokens = RecentInputs()
        self.is_initialized = self.in_pass = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Choose rows, as beam search does."""
        self._change_rows(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._change_rows(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self._change_rows(lambda tensor: tensor[indices.to(tensor.device)])

    def offload(self) -> None:
        """Move what is remembered to the CPU."""
        if self.past is not None and self.device is None:
            self.device = self.past.tokens.device
            self._change_rows(lambda tensor: tensor.to("cpu"))

    def prefetch(self) -> None:
        """Move what is remembered back to its device."""
        if self.device is not None:
            device, self.device = self.device, None
            self._change_rows(lambda tensor: tensor.to(device))

    def _change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.past is not None:
            self.past.change_rows(change)
        self.tokens.change_rows(change)
        if self.padding is not None:
            self.padding = change(self.padding)

    def _count(self, new: NewTokens) -> None:
        """Count the padding of each row."""
        if not new.padded:
            self.since_padding += new.places.shape[1]
            return
        padding = (~new.real).sum(dim=1)
        self.padding = padding if self.padding is None else self.padding + padding
        last_padded = int((~new.real).any(dim=0).nonzero().max())
        self.since_padding = new.places.shape[1] - 1 - last_padded


class Remembered(NamedTuple):
    """What a layer's pass with a cache needs beside the hidden states.

    Attributes:
        layer: the cache of the layer.
        new: where the tokens of this pass stand.
        offload: whether the layer's cache goes to the CPU afterwards.
    """

    layer: ReformerHFCacheLayer
    new: NewTokens
    offload: bool

    def past(self, attention: SelfAttention, hashing: Hashing, device: torch.device) -> Past:
        """The past of a layer, which its attention makes at the first tokens."""
        return self.layer.fetch(partial(attention.new_past, hashing, device), self.new)

    def recurrent_past(self) -> Past | None:
        """The same past, which remembers the states of recurrent units, too."""
        return self.layer.past

    def leave(self) -> None:
        """The layer is done: what it remembers goes to the CPU, if that is asked for."""
        if self.offload:
            self.layer.offload()


def remember(cache: Cache, new: NewTokens) -> list[Remembered]:
    """What the layers' pass with a cache needs.

    Args:
        cache: of :class:`ReformerHFCacheLayer`.
        new: where the tokens of the pass stand.
    """
    layers: list[Any] = cache.layers
    offload = getattr(cache, "offload_between_layers", cache.offloading)
    return [Remembered(layer, new, offload) for layer in layers]


class ReformerHFCache(DynamicCache):
    """What a model remembers of the tokens so far, for `past_key_values`.

    Each layer keeps its keys and values once, a local layer only those that can still be seen; LSH
    layers of the `band` scope also keep their buckets' last places, in the `chunk` scope bucket ids
    and the order of each round. Rows are independent.

    Args:
        config: of the model.
        offloading: keep each layer's part on the CPU while it is not in use.
    """

    layers: list[Any]  # of ReformerHFCacheLayer

    def __init__(self, config: PreTrainedConfig, offloading: bool = False):
        layers: list[Any] = [ReformerHFCacheLayer() for _ in range(config.num_hidden_layers)]
        Cache.__init__(self, layers=layers)
        self.offload_between_layers = offloading

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last tokens in all layers, or in none; see `ReformerHFCacheLayer.crop`."""
        for layer in self.layers:
            layer.check_crop(tokens_to_remove)
        super().crop(tokens_to_remove)

    def used_bytes(self) -> int:
        """Bytes of what is remembered: what grows with the tokens, and the rings."""
        return sum(past.token_bytes + past.fixed_bytes for past in self._pasts())

    def allocated_bytes(self) -> int:
        """Bytes held, room to grow included."""
        return sum(past.allocated_bytes for past in self._pasts())

    def _pasts(self) -> list[Past]:
        return [layer.past for layer in self.layers if layer.past is not None]

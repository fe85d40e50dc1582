"""What `generate()` needs to know of an encoder-decoder: its cache, and how far the target goes."""

import inspect
from typing import Any

from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from reformer_hf.models.cache_reformer_hf import ReformerHFCache
from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.encoder_decoder.packed_decoder import ReformerHFPackedCache
from reformer_hf.models.generation import ReformerHFGenerationMixin


def new_seq2seq_cache(config: ReformerHFConfig, offloading: bool = False) -> Cache:
    """Make an empty cache.

    With cross-attention it is transformers' `EncoderDecoderCache`: a `ReformerHFCache` of the
    target, and keys and values of the source, projected once for each layer.

    Args:
        config: of the encoder-decoder.
        offloading: keep each layer's part of the target on the CPU while it is not in use.

    Returns:
        The cache.
    """
    if config.decoder_form == "packed":
        return ReformerHFPackedCache(config, offloading=offloading)
    return EncoderDecoderCache(ReformerHFCache(config, offloading=offloading), DynamicCache())


def choose_seq2seq_cache(
    config: ReformerHFConfig, past_key_values: Any, use_cache: bool | None
) -> Cache | None:
    """Find the cache of a pass, or make one.

    Args:
        config: of the encoder-decoder.
        past_key_values: as given to the model.
        use_cache: as given to the model; None for no cache, unless one is given.

    Returns:
        The cache, or None for a pass without.

    Raises:
        ValueError: if the cache is of another kind.
    """
    if past_key_values is None:
        return new_seq2seq_cache(config) if use_cache else None
    wanted = ReformerHFPackedCache if config.decoder_form == "packed" else EncoderDecoderCache
    if not isinstance(past_key_values, wanted):
        raise ValueError(
            f"past_key_values is a {type(past_key_values).__name__}, but decoder_form="
            f"{config.decoder_form!r} needs a {wanted.__name__}: take what the model returned, or "
            "leave it out"
        )
    return past_key_values


class ReformerHFSeq2SeqGenerationMixin(ReformerHFGenerationMixin):
    """`generate()` of an encoder-decoder."""

    def generate(self, *args: Any, encoder_outputs: Any = None, **kwargs: Any) -> Any:
        """Write targets; see `GenerationMixin.generate`.

        Args:
            *args: see there.
            encoder_outputs: what `get_encoder()` returned, a tuple or list, too. It stays as it is,
                where transformers would repeat its rows for beams.
            **kwargs: see there.

        Returns:
            Token ids, or what `return_dict_in_generate` asks for.
        """
        if isinstance(encoder_outputs, tuple | list):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        if encoder_outputs is not None:
            kwargs["encoder_outputs"] = type(encoder_outputs)(**encoder_outputs)
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def _new_cache(self, offloading: bool) -> Cache:
        return new_seq2seq_cache(self.config, offloading)

    def _prepare_text_encoder_decoder_kwargs_for_generation(
        self,
        inputs_tensor: Tensor,
        model_kwargs: dict[str, Any],
        model_input_name: str | None,
        generation_config: GenerationConfig,
    ) -> dict[str, Any]:
        """Encode the source; labels, and what else the encoder does not read, are kept from it."""
        known = inspect.signature(self.get_encoder().forward).parameters  # type: ignore[attr-defined]
        read = {name: value for name, value in model_kwargs.items() if name in known}
        encoded = super()._prepare_text_encoder_decoder_kwargs_for_generation(  # type: ignore[misc]
            inputs_tensor, read, model_input_name, generation_config
        )
        return {**model_kwargs, "encoder_outputs": encoded["encoder_outputs"]}

    def _check_prefill(self, chunk_size: int, model_kwargs: dict[str, Any]) -> None:
        raise ValueError(
            f"prefill_chunk_size={chunk_size} with an encoder-decoder: transformers would cut the "
            "mask of the source where it cuts the target's prompt; leave it out"
        )

    def _check_room(self, model_kwargs: dict[str, Any], max_length: int) -> None:
        """Check that the decoder has positions for the whole target."""
        limit = self.config.position_limit
        if limit is not None and max_length > limit:
            raise ValueError(
                f"the target may have {max_length + 1} tokens, of which the decoder reads "
                f"{max_length}; this model has {limit} positions: lower max_new_tokens or "
                "max_length, or use position_embedding_type='none'"
            )

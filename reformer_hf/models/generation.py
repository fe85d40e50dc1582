"""What `generate()` needs to know of a Reformer: its cache, and what it refuses."""

from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.cache_utils import Cache
from transformers.generation.candidate_generator import CandidateGenerator
from transformers.generation.configuration_utils import GenerationMode

from reformer_hf.models.cache_reformer_hf import ReformerHFCache
from reformer_hf.models.cached_inputs import check_room
from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig

CACHE_IMPLEMENTATIONS = (None, "dynamic", "offloaded")


class ReformerHFGenerationMixin(GenerationMixin):
    """`generate()` with a :class:`ReformerHFCache`."""

    config: ReformerHFConfig

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # transformers tells by the name "reformer" that there is none.
        return True

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Make the cache, after checking all that can be checked before the first token."""
        self._check_generation(generation_config, model_kwargs, generation_mode, max_cache_length)
        given = model_kwargs.get("past_key_values")
        if given is not None or generation_config.use_cache is False:
            super()._prepare_cache_for_generation(  # type: ignore[attr-defined]
                generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
            )
            return
        cache = self._new_cache(generation_config.cache_implementation == "offloaded")
        if generation_config.is_assistant:
            cache.activate_past_recording()
        model_kwargs["past_key_values"] = cache

    def _new_cache(self, offloading: bool) -> Cache:
        return ReformerHFCache(self.config, offloading=offloading)

    def _check_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        max_cache_length: int,
    ) -> None:
        """Check what was asked of `generate()`.

        Raises:
            ValueError: naming the argument, its value and the fix.
        """
        base: Any = self.base_model  # type: ignore[attr-defined]
        if base.sequence_parallel is not None:
            raise ValueError(
                "generate() in a row over several processes: read the prompt by a forward pass "
                "with use_cache=True, call set_sequence_parallel(None), and let the last process "
                "go on with its past_key_values"
            )
        implementation = generation_config.cache_implementation
        if implementation not in CACHE_IMPLEMENTATIONS:
            raise ValueError(
                f"cache_implementation={implementation!r}: a Reformer's cache holds buckets beside "
                "keys and values, which transformers' static and quantized layers do not; leave it "
                "out, or use 'offloaded'"
            )
        assisted = generation_mode == GenerationMode.ASSISTED_GENERATION
        if assisted and generation_config.output_attentions == "sparse":
            raise ValueError(
                "output_attentions='sparse' with assisted decoding or prompt lookup, where "
                "transformers cuts dense maps: use output_attentions=True, or leave it out"
            )
        chunk_size = generation_config.prefill_chunk_size
        if chunk_size is not None:
            self._check_prefill(chunk_size, model_kwargs)
        # Prompt lookup may try tokens beyond the end, and drop them.
        tried = generation_config.prompt_lookup_num_tokens or 0
        self._check_room(model_kwargs, max_cache_length + tried)

    def _check_room(self, model_kwargs: dict[str, Any], max_length: int) -> None:
        """Check that there are positions for all tokens; see `check_room`."""
        embeds, position_ids = model_kwargs.get("inputs_embeds"), model_kwargs.get("position_ids")
        mask = model_kwargs.get("attention_mask")
        if position_ids is not None:
            prompt_length = position_ids.shape[-1]
        else:
            known = mask if mask is not None else embeds
            prompt_length = 0 if known is None else known.shape[1]
        check_room(self.config, mask, position_ids, prompt_length, max_length)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Any,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        tokenizer: Any = None,
        assistant_tokenizer: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Leave out what transformers' loops pass on but no model reads."""
        # It looks in this signature for what it may pass, hence the names.
        return super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, *args, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )

    def _prepare_attention_mask_for_generation(
        self, inputs_tensor: Tensor, generation_config: GenerationConfig, model_kwargs: dict
    ) -> Tensor:
        """Take every token of a draft's prefix as real, where the main model's prompt was."""
        if generation_config.is_assistant:
            # transformers would take a pad token that was written for padding.
            return torch.ones(
                inputs_tensor.shape[:2], dtype=torch.long, device=inputs_tensor.device
            )
        return super()._prepare_attention_mask_for_generation(
            inputs_tensor, generation_config, model_kwargs
        )

    def _get_candidate_generator(
        self, generation_config: GenerationConfig, *args: Any, **kwargs: Any
    ) -> CandidateGenerator:
        """Check that the assistant can read as much, before the first token."""
        assistant = kwargs.get("assistant_model")
        limit = getattr(getattr(assistant, "config", None), "position_limit", None)
        if limit is not None and generation_config.max_length - 1 > limit:
            raise ValueError(
                f"the text may have {generation_config.max_length} tokens, but assistant_model has "
                f"{limit} positions: shorten the prompt, lower max_new_tokens or max_length, or "
                "take an assistant with as many positions as the model"
            )
        return super()._get_candidate_generator(  # type: ignore[misc]
            generation_config, *args, **kwargs
        )

    def _check_prefill(self, chunk_size: int, model_kwargs: dict[str, Any]) -> None:
        if chunk_size < 1:
            raise ValueError(
                f"prefill_chunk_size={chunk_size} must be at least 1 token; leave it out to "
                "prefill at once"
            )
        if self.config.attention_scope == "chunk" and "lsh" in self.config.attn_layers:
            raise ValueError(
                f"prefill_chunk_size={chunk_size} with attention_scope='chunk': its chunks are cut "
                "from the whole prompt, so blocks of it would give other results; leave it out, or "
                "use the band scope"
            )
        if model_kwargs.get("inputs_embeds") is not None:
            raise ValueError(
                f"prefill_chunk_size={chunk_size} with inputs_embeds: transformers splits token "
                "ids only; leave it out, or first call the model on blocks of the embeddings with "
                "past_key_values"
            )

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: continuous batching pages keys and values only.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "continuous batching (generate_batch, cache_implementation='paged', transformers serve "
            "with continuous batching) allocates pages of keys and values, but a Reformer's cache "
            "also holds buckets: use generate() with a left-padded batch"
        )

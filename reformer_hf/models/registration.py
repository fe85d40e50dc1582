"""Registration with transformers' Auto classes."""

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.encoder_decoder.base_model import ReformerHFEncoderDecoderModel
from reformer_hf.models.files.checkpoint_files import HeadBiasConverter
from reformer_hf.models.modeling_classification import (
    ReformerHFForMultipleChoice,
    ReformerHFForSequenceClassification,
)
from reformer_hf.models.modeling_encoder_decoder import ReformerHFForConditionalGeneration
from reformer_hf.models.modeling_heads import (
    ReformerHFForMaskedLM,
    ReformerHFForQuestionAnswering,
    ReformerHFForTokenClassification,
)
from reformer_hf.models.modeling_reformer_hf import (
    ReformerHFForCausalLM,
    ReformerHFModel,
    ReformerHFPreTrainedModel,
)
from reformer_hf.models.tokenization_reformer_hf import register_tokenizers

MODELS = {
    AutoModel: ReformerHFModel,
    AutoModelForCausalLM: ReformerHFForCausalLM,
    AutoModelForMaskedLM: ReformerHFForMaskedLM,
    AutoModelForMultipleChoice: ReformerHFForMultipleChoice,
    AutoModelForQuestionAnswering: ReformerHFForQuestionAnswering,
    AutoModelForSeq2SeqLM: ReformerHFForConditionalGeneration,
    AutoModelForSequenceClassification: ReformerHFForSequenceClassification,
    AutoModelForTokenClassification: ReformerHFForTokenClassification,
}
"""The model that each Auto class makes of a `ReformerHFConfig`."""

ENCODER_DECODER_MODELS = {
    AutoModel: ReformerHFEncoderDecoderModel,
    AutoModelForSeq2SeqLM: ReformerHFForConditionalGeneration,
}
"""The same, where it is an encoder-decoder's."""


class BaseModelOfEitherKind(ReformerHFPreTrainedModel):
    """What `AutoModel` knows, which tells models by the class of their configuration alone."""

    def __new__(cls, config: ReformerHFConfig, *inputs: Any, **kwargs: Any) -> Any:
        """Make the model that the configuration's fields ask for."""
        models = ENCODER_DECODER_MODELS if config.is_encoder_decoder else MODELS
        return models[AutoModel](config, *inputs, **kwargs)


class StockReformerConfig(ReformerHFConfig):
    """What `model_type: reformer` means to `AutoConfig` after `register(override_stock=True)`.

    Reading a dictionary gives a `ReformerHFConfig`, never an instance of this class, so a model
    loaded this way is saved with `model_type: reformer_hf` and loads again without the override.
    """

    model_type = "reformer"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a configuration of transformers' Reformer; see `PreTrainedConfig`."""
        return ReformerHFConfig.from_dict(config_dict, **kwargs)


def register(override_stock: bool = False) -> None:
    """Register the classes of this package with the Auto classes; importing it does this.

    Args:
        override_stock: also load `model_type: reformer`, as of the `google/reformer-*`
            checkpoints, with this package instead of transformers' Reformer. This holds for the
            whole process and all its Auto classes, and cannot be taken back; models made from
            transformers' own `ReformerConfig` objects stay transformers'.
    """
    config_class = ReformerHFConfig
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_class, model_class in {**MODELS, AutoModel: BaseModelOfEitherKind}.items():
        auto_class.register(config_class, model_class, exist_ok=True)
    register_tokenizers(config_class)
    register_checkpoint_conversion_mapping(
        config_class.model_type, [HeadBiasConverter()], overwrite=True
    )
    if override_stock:
        AutoConfig.register(StockReformerConfig.model_type, StockReformerConfig, exist_ok=True)

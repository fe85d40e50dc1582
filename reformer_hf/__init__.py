"""The Reformer for Hugging Face transformers.

Importing this package registers its configuration, models and tokenizers with the Auto classes.
"""

from reformer_hf.models.cache_reformer_hf import ReformerHFCache
from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.encoder_decoder.base_model import ReformerHFEncoderDecoderModel
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
from reformer_hf.models.registration import register
from reformer_hf.models.sequence_parallel import SequenceParallel
from reformer_hf.models.tokenization_reformer_hf import (
    ReformerHFByteTokenizer,
    ReformerHFTokenizer,
)

__version__ = "0.1.0"

__all__ = [
    "ReformerHFByteTokenizer",
    "ReformerHFCache",
    "ReformerHFConfig",
    "ReformerHFEncoderDecoderModel",
    "ReformerHFForCausalLM",
    "ReformerHFForConditionalGeneration",
    "ReformerHFForMaskedLM",
    "ReformerHFForMultipleChoice",
    "ReformerHFForQuestionAnswering",
    "ReformerHFForSequenceClassification",
    "ReformerHFForTokenClassification",
    "ReformerHFModel",
    "ReformerHFPreTrainedModel",
    "ReformerHFTokenizer",
    "SequenceParallel",
    "register",
]

register()

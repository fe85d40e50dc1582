"""Registration with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM, ReformerHFModel


def register() -> None:
    """Register the classes of this package; importing it does this."""
    AutoConfig.register(ReformerHFConfig.model_type, ReformerHFConfig, exist_ok=True)
    AutoModel.register(ReformerHFConfig, ReformerHFModel, exist_ok=True)
    AutoModelForCausalLM.register(ReformerHFConfig, ReformerHFForCausalLM, exist_ok=True)

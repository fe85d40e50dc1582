"""Stand-ins for the tiny models that transformers' pipeline suite loads from the Hub."""

import atexit
import json
import tempfile
from pathlib import Path

import torch

from reformer_hf import (
    ReformerHFByteTokenizer,
    ReformerHFForCausalLM,
    ReformerHFForMaskedLM,
    ReformerHFForSequenceClassification,
    ReformerHFForTokenClassification,
    ReformerHFModel,
)
from tests.models.tiny import tiny_config

PIPELINES = {
    "feature-extraction": ReformerHFModel,
    "fill-mask": ReformerHFForMaskedLM,
    "text-classification": ReformerHFForSequenceClassification,
    "text-generation": ReformerHFForCausalLM,
    "token-classification": ReformerHFForTokenClassification,
    "zero-shot": ReformerHFForSequenceClassification,
}
"""Pipeline to the model that it is tested with."""


def save_tiny_models() -> str:
    """Save one model of each class in a folder that lasts as long as this process.

    Returns:
        The folder, laid out as `TRANSFORMERS_TINY_MODEL_PATH` has to be.
    """
    temporary = tempfile.TemporaryDirectory()
    atexit.register(temporary.cleanup)
    root = Path(temporary.name)
    summary = {}
    for model_class in set(PIPELINES.values()):
        torch.manual_seed(0)
        tokenizer = ReformerHFByteTokenizer(mask_token="<mask>", model_max_length=512)
        config = tiny_config(
            vocab_size=len(tokenizer), axial_pos_shape=[32, 32], num_labels=2, is_decoder=None
        )
        folder = root / config.model_type / model_class.__name__
        model_class(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        summary[model_class.__name__] = {
            "tokenizer_classes": ["AutoTokenizer"],
            "processor_classes": [],
        }
    (root / "reports").mkdir()
    (root / "reports/tiny_model_summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return str(root)

"""What transformers' suites ask of a model's tester: configurations and inputs."""

from typing import Any

import torch
from torch import Tensor

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from tests.models.tiny import tiny_config

BATCH, SEQ = 3, 12
"""Rows, and tokens in each: the suites make labels as long as the input."""


class ReformerTester:
    """Tiny configurations and batches.

    Args:
        parent: the test case.
        **fields: of the configuration.
    """

    batch_size = BATCH
    seq_length = encoder_seq_length = SEQ
    decoder_seq_length = decoder_key_length = SEQ
    is_training = True
    num_choices = 2
    causal_lm_class = ReformerHFForCausalLM  # which learns in the suite of training

    def __init__(self, parent: Any, **fields: Any):
        self.parent = parent
        self.fields = fields
        config = self.get_config()
        self.hidden_size = 2 * config.hidden_size  # both streams
        self.num_hidden_layers = config.num_hidden_layers
        self.num_attention_heads = config.num_attention_heads

    def get_config(self) -> ReformerHFConfig:
        """A tiny configuration with weights of the usual size, and no end of sequence."""
        fields = {"initializer_range": 0.02, "axial_norm_std": 0.02, "eos_token_id": None}
        fields["bos_token_id"] = 2
        return tiny_config(**fields, num_labels=3, **self.fields)

    def prepare_config_and_inputs_for_common(self) -> tuple[ReformerHFConfig, dict[str, Tensor]]:
        """A configuration and a batch for it."""
        config = self.get_config()
        ids = torch.randint(3, config.vocab_size, (BATCH, SEQ))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if config.is_encoder_decoder:
            target = torch.randint(3, config.vocab_size, (BATCH, SEQ))
            inputs["decoder_input_ids"] = target
            inputs["decoder_attention_mask"] = torch.ones_like(target)
        return config, inputs

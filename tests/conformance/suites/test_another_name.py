"""Transformers' suite of generation, with what keeps tests from running out of its sight.

It leaves out tests for models with "reformer" in their name, for those that return a cache only
when asked or take no attention function from outside, and for those whose configuration has fields
of an encoder.
"""

import unittest
from functools import wraps
from typing import Any

from torch import Tensor
from transformers import GenerationMixin

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from tests.conformance.cases import GenerationSuite
from tests.conformance.testers import ReformerTester


class AnotherConfig(ReformerHFConfig):
    """A configuration that does not show fields of encoders."""

    def to_dict(self) -> dict[str, Any]:
        """All fields but those; see `PreTrainedConfig`."""
        fields = super().to_dict()
        return {name: value for name, value in fields.items() if not name.startswith("encoder")}


class AnotherForCausalLM(ReformerHFForCausalLM, GenerationMixin):
    """A causal model that returns a cache."""

    _supports_attention_backend = True

    @wraps(ReformerHFForCausalLM.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As of the base class."""
        return super().forward(*args, **{"use_cache": self.config.use_cache, **kwargs})


class AnotherTester(ReformerTester):
    """A tester whose configuration is of the other class."""

    def get_config(self) -> ReformerHFConfig:
        """The same fields."""
        fields = super().get_config().to_dict()
        return AnotherConfig.from_dict(fields)

    def prepare_config_and_inputs_for_common(self) -> tuple[ReformerHFConfig, dict[str, Tensor]]:
        """A batch with a row that is padded on the left, as `generate` has it."""
        config, inputs = super().prepare_config_and_inputs_for_common()
        inputs["attention_mask"][1, :2] = 0
        return config, inputs


class TestAnotherName(GenerationSuite, unittest.TestCase):
    """Causal layers of both kinds."""

    all_model_classes = all_generative_model_classes = (AnotherForCausalLM,)
    has_attentions = True

    def setUp(self) -> None:
        """Make the tester; see `unittest.TestCase`."""
        self.model_tester = AnotherTester(self, is_decoder=True)

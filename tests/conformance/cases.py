"""Transformers' suites of models, with what is different about all of ours."""

from typing import Any

from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from torch import Tensor

from reformer_hf import ReformerHFConfig
from tests.conformance.testers import ReformerTester


class ModelSuite(ModelTesterMixin):
    """Transformers' suites of models and of configurations.

    Attributes:
        fields: of the configuration.
    """

    test_can_init_all_missing_weights_before_2023 = True
    fields: dict[str, Any] = {}

    def setUp(self) -> None:
        """Make the testers; see `unittest.TestCase`."""
        self.model_tester = ReformerTester(self, **self.fields)
        self.config_tester = ConfigTester(self, config_class=ReformerHFConfig, hidden_size=16)

    def check_training_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        """Leave out layers that rebuild their activations anyway."""
        if self.model_tester.get_config().reversible:
            self.skipTest("reversible layers rebuild their activations without checkpoints")
        super().check_training_gradient_checkpointing(*args, **kwargs)

    def test_config(self) -> None:
        """Transformers' suite of configurations."""
        self.config_tester.run_common_tests()

    def test_reverse_loading_mapping(self, **_: Any) -> None:
        """Transformers' test of the names in files, except that ours are those of the model."""
        super().test_reverse_loading_mapping(check_keys_were_modified=False)


class GenerationSuite(GenerationTesterMixin):
    """Transformers' suite of generation, except that hidden states are as wide as two streams."""

    def _check_hidden_states_for_generate(self, *args: Any, **kwargs: Any) -> None:
        kwargs["hidden_states"] = one_stream(kwargs["hidden_states"])
        super()._check_hidden_states_for_generate(*args, **kwargs)

    def _check_encoder_hidden_states_for_generate(self, *args: Any, **kwargs: Any) -> None:
        kwargs["hidden_states"] = one_stream(kwargs["hidden_states"])
        super()._check_encoder_hidden_states_for_generate(*args, **kwargs)


def one_stream(states: Any) -> Any:
    """The first half of each hidden state in nested tuples."""
    if isinstance(states, Tensor):
        return states.chunk(2, dim=-1)[0]
    return tuple(one_stream(each) for each in states)

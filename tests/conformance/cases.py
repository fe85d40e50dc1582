"""The suites that every model is tested with."""

from typing import Any

from tests.conformance.testers import ReformerTester
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin

from reformer_hf import ReformerHFConfig


class ModelSuite(ModelTesterMixin):
    """Transformers' suites of models and of configurations.

    Attributes:
        fields: of the configuration.
    """

    fields: dict[str, Any] = {}

    def setUp(self) -> None:
        """Make the testers; see `unittest.TestCase`."""
        self.model_tester = ReformerTester(self, **self.fields)
        self.config_tester = ConfigTester(self, config_class=ReformerHFConfig, hidden_size=16)

    def test_config(self) -> None:
        """Transformers' suite of configurations."""
        self.config_tester.run_common_tests()

    def test_reverse_loading_mapping(self, **_: Any) -> None:
        """Transformers' test of the names in files, except that ours are those of the model."""
        super().test_reverse_loading_mapping(check_keys_were_modified=False)

"""Transformers' suites on models that read in both directions."""

import unittest

from reformer_hf import (
    ReformerHFForMaskedLM,
    ReformerHFForMultipleChoice,
    ReformerHFForQuestionAnswering,
    ReformerHFForSequenceClassification,
    ReformerHFForTokenClassification,
    ReformerHFModel,
)
from tests.conformance.cases import ModelSuite


class TestBidirectional(ModelSuite, unittest.TestCase):
    """Every head that such a model may have."""

    all_model_classes = (
        ReformerHFModel,
        ReformerHFForMaskedLM,
        ReformerHFForMultipleChoice,
        ReformerHFForQuestionAnswering,
        ReformerHFForSequenceClassification,
        ReformerHFForTokenClassification,
    )


class TestChunkScope(ModelSuite, unittest.TestCase):
    """As checkpoints of transformers' Reformer are read."""

    all_model_classes = (ReformerHFModel, ReformerHFForMaskedLM)
    fields = {"attention_scope": "chunk"}

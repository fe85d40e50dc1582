"""Transformers' suites on causal models."""

import unittest
from importlib.util import find_spec

from tests.test_pipeline_mixin import PipelineTesterMixin
from tests.test_training_mixin import TrainingTesterMixin

from reformer_hf import (
    ReformerHFForCausalLM,
    ReformerHFForMultipleChoice,
    ReformerHFForQuestionAnswering,
    ReformerHFForSequenceClassification,
    ReformerHFForTokenClassification,
    ReformerHFModel,
)
from tests.conformance.cases import GenerationSuite, ModelSuite
from tests.conformance.tiny_models import PIPELINES


class CausalSuite(ModelSuite, GenerationSuite):
    """A causal model that does not train a head."""

    all_model_classes = (ReformerHFModel, ReformerHFForCausalLM)


class TestCausal(
    CausalSuite,
    PipelineTesterMixin,
    TrainingTesterMixin,
    unittest.TestCase,
):
    """Every head that a causal model may have, and every suite."""

    all_model_classes = (
        ReformerHFModel,
        ReformerHFForCausalLM,
        ReformerHFForMultipleChoice,
        ReformerHFForQuestionAnswering,
        ReformerHFForSequenceClassification,
        ReformerHFForTokenClassification,
    )
    pipeline_model_mapping = PIPELINES if find_spec("tests.pipelines") else {}
    fields = {"is_decoder": True}


class TestNotReversible(CausalSuite, unittest.TestCase):
    """Layers that store their activations."""

    fields = {"is_decoder": True, "reversible": False}


class TestLocal(CausalSuite, unittest.TestCase):
    """Local layers alone."""

    fields = {"is_decoder": True, "attn_layers": ["local", "local"]}


class TestLSH(CausalSuite, unittest.TestCase):
    """LSH layers alone."""

    fields = {"is_decoder": True, "attn_layers": ["lsh", "lsh"]}


class TestFull(CausalSuite, unittest.TestCase):
    """Exact attention."""

    fields = {"is_decoder": True, "attn_layers": ["full", "full_shared_qk"]}


class TestRotary(CausalSuite, unittest.TestCase):
    """Angles in place of embedded positions."""

    fields = {
        "is_decoder": True,
        "position_embedding_type": "rotary",
        "max_position_embeddings": 48,
    }


class TestChunkScope(CausalSuite, unittest.TestCase):
    """As checkpoints of transformers' Reformer are read."""

    fields = {"is_decoder": True, "attention_scope": "chunk"}

"""Transformers' suites on encoder-decoders."""

import unittest

from tests.conformance.cases import ModelSuite
from tests.generation.test_utils import GenerationTesterMixin

from reformer_hf import ReformerHFForConditionalGeneration

FIELDS = {
    "is_encoder_decoder": True,
    "encoder_attn_layers": ["local", "lsh"],
    "decoder_attn_layers": ["full", "lsh"],
    "decoder_start_token_id": 2,
}


class EncoderDecoderSuite(ModelSuite, GenerationTesterMixin):
    """An encoder and a decoder."""

    is_encoder_decoder = True
    all_model_classes = (ReformerHFForConditionalGeneration,)


class TestCrossAttention(EncoderDecoderSuite, unittest.TestCase):
    """Decoder layers attend to the encoder output in a sub-layer of their own."""

    fields = FIELDS


class TestPacked(EncoderDecoderSuite, unittest.TestCase):
    """Encoder output and target stand in one row."""

    fields = {**FIELDS, "decoder_form": "packed"}

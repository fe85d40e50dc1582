"""Transformers' suites on encoder-decoders."""

import unittest

from reformer_hf import ReformerHFForConditionalGeneration
from tests.conformance.cases import GenerationSuite, ModelSuite

FIELDS = {
    "is_encoder_decoder": True,
    "encoder_attn_layers": ["local", "lsh"],
    "decoder_attn_layers": ["full", "lsh"],
    "decoder_start_token_id": 2,
}


class EncoderDecoderSuite(ModelSuite, GenerationSuite):
    """An encoder and a decoder."""

    is_encoder_decoder = True
    all_model_classes = (ReformerHFForConditionalGeneration,)


class TestCrossAttention(EncoderDecoderSuite, unittest.TestCase):
    """Decoder layers attend to the encoder output in a sub-layer of their own."""

    fields = FIELDS


class TestCrossAttentionNotReversible(EncoderDecoderSuite, unittest.TestCase):
    """Layers that store their activations."""

    fields = {**FIELDS, "reversible": False}


class TestPacked(EncoderDecoderSuite, unittest.TestCase):
    """Encoder output and target stand in one row."""

    fields = {**FIELDS, "decoder_form": "packed"}

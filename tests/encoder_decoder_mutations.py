"""Faults of the encoder-decoder that the tests must find; a part of `tests.mutations`."""

from tests.mutation import Mutation

MODEL = ("tests/models/test_modeling_encoder_decoder.py",)
LAYERS = ("tests/models/encoder_decoder/test_decoder_layers.py",)
GENERATION = ("tests/models/encoder_decoder/test_seq2seq_generation.py",)
ATTENTION = ("tests/nn/test_cross_attention.py",)

ENCODER_DECODER_MUTATIONS = [
    Mutation(
        "the streams of a decoder block do not swap",
        "reformer_hf/models/encoder_decoder/decoder_layers.py",
        "return x2, x1, attention_map, probabilities[0]",
        "return x1, x2, attention_map, probabilities[0]",
        LAYERS,
    ),
    Mutation(
        "padding of the source is attended to",
        "reformer_hf/models/encoder_decoder/cross_attention.py",
        "            source.visible,\n",
        "            None,\n",
        MODEL,
    ),
    Mutation(
        "a source of padding alone gives what its padding says",
        "reformer_hf/ops/full_attention.py",
        "output = output.masked_fill(blind, 0)",
        "output = output",
        ATTENTION,
    ),
    Mutation(
        "dropout in backward is another than in forward",
        "reformer_hf/ops/full_attention.py",
        "        dropout, seed = ctx.settings\n",
        "        dropout, seed = ctx.settings[0], None\n",
        ATTENTION,
    ),
    Mutation(
        "keys get no gradient from the pieces but the last",
        "reformer_hf/ops/full_attention.py",
        "            by_key += found[1]\n",
        "            by_key = found[1]\n",
        ATTENTION,
    ),
    Mutation(
        "the keys and values of a source are kept for each layer",
        "reformer_hf/models/encoder_decoder/decoder_layers.py",
        "            assert inputs.source is not None\n",
        "            assert inputs.source is not None\n"
        "            attention = self.cross_attention.cross_attention\n"
        "            self.kept = attention.project_source(inputs.source.states)\n",
        LAYERS,
    ),
    Mutation(
        "the keys of a source are projected in each decoding step",
        "reformer_hf/models/encoder_decoder/cross_attention.py",
        "        if not cache.get_seq_length(index):\n",
        "        self.cross_attention.project_source(source.states)\n"
        "        if not cache.get_seq_length(index):\n",
        GENERATION,
    ),
    Mutation(
        "a packed target counts its positions from the end of the source",
        "reformer_hf/models/encoder_decoder/packed_decoder.py",
        "            padding = padding.to(source_mask.device) - (source_mask == 0).sum(dim=1)\n",
        "            padding = padding.to(source_mask.device)\n",
        GENERATION,
    ),
    Mutation(
        "a packed target may look at the padding of its source",
        "reformer_hf/models/encoder_decoder/packed_decoder.py",
        "torch.cat([source_mask, target_mask], dim=1),",
        "torch.cat([torch.ones_like(source_mask), target_mask], dim=1),",
        MODEL,
    ),
    Mutation(
        "labels padded on the left begin with padding",
        "reformer_hf/models/encoder_decoder/target_inputs.py",
        "return shifted.scatter(1, first, start)",
        "return shifted.scatter(1, 0 * first, start)",
        MODEL,
    ),
    Mutation(
        "an output tied to the embeddings reads one stream",
        "reformer_hf/models/layers.py",
        "hidden_states.unflatten(-1, (2, -1)).mean(dim=-2)",
        "hidden_states.unflatten(-1, (2, -1))[..., 0, :]",
        MODEL,
    ),
    Mutation(
        "the encoder is causal",
        "reformer_hf/models/configuration_reformer_hf.py",
        'own.is_decoder = side == "decoder"',
        "own.is_decoder = True",
        MODEL,
    ),
]

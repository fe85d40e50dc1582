"""Every argument of the layers is checked, and each error names it, its value and the fix."""

import inspect
import re
from typing import Any

import pytest
import torch

from reformer_hf.nn.distance_attention import DistanceSelfAttention
from reformer_hf.nn.self_attention import SelfAttention
from reformer_hf.ops.window import Window
from tests.nn.plain_import import import_plainly

plain = import_plainly("reformer_hf.nn.layers")
attention = import_plainly("reformer_hf.nn.attention")
plain.LSHSelfAttention = attention.LSHSelfAttention  # type: ignore[attr-defined]
plain.LocalSelfAttention = attention.LocalSelfAttention  # type: ignore[attr-defined]
sequences = import_plainly("reformer_hf.nn.reversible_sequence")
LAYERS = [plain.LSHAttention, plain.LocalAttention]
TOKENS = torch.zeros(2, 5, 8)
INT = "give an int of at least"


@pytest.fixture(autouse=True)
def plain_constructors(monkeypatch):
    """Those of what the layers build, too."""
    for kind in (SelfAttention, DistanceSelfAttention, Window):
        monkeypatch.setattr(kind, "__init__", inspect.unwrap(kind.__init__))


def fails(error: type, *parts: str):
    """The error, with these parts in its message in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"dim": 8.0}, TypeError, ("dim=8.0", INT)),
        ({"dim": 0}, ValueError, ("dim=0", INT)),
        ({"dim": True}, TypeError, ("dim=True", INT)),
        ({"heads": 3}, ValueError, ("dim=8", "heads=3", "give head_dim")),
        ({"heads": -2}, ValueError, ("heads=-2", INT)),
        ({"heads": None}, TypeError, ("heads=None", INT)),
        ({"head_dim": 0}, ValueError, ("head_dim=0", INT)),
        ({"head_dim": "4"}, TypeError, ("head_dim='4'", INT)),
        ({"causal": 64}, TypeError, ("causal=64", "True or False")),
        ({"causal": None}, TypeError, ("causal=None", "True or False")),
        ({"bias": 1}, TypeError, ("bias=1", "True or False")),
        ({"scope": "bands"}, ValueError, ("scope='bands'", "'band', 'chunk'")),
        ({"scope": None}, ValueError, ("scope=None", "'band', 'chunk'")),
        ({"implementation": "flash"}, ValueError, ("implementation='flash'", "'eager'")),
        (
            {"implementation": "flex_attention", "dropout": 0.1},
            ValueError,
            ("implementation='flex_attention'", "dropout=0.1", "choose another"),
        ),
        ({"chunk_length": 0}, ValueError, ("chunk_length=0", INT)),
        ({"chunk_length": 2.5}, TypeError, ("chunk_length=2.5", INT)),
        ({"num_chunks_before": -1}, ValueError, ("num_chunks_before=-1", INT)),
        ({"num_chunks_before": "1"}, TypeError, ("num_chunks_before='1'", INT)),
        ({"num_chunks_after": -1, "causal": False}, ValueError, ("num_chunks_after=-1", INT)),
        ({"num_chunks_after": 1}, ValueError, ("num_chunks_after=1", "causal=False")),
        ({"dropout": 1.0}, ValueError, ("dropout=1.0", "below 1")),
        ({"dropout": -0.1}, ValueError, ("dropout=-0.1", "below 1")),
        ({"dropout": float("nan")}, ValueError, ("dropout=nan", "below 1")),
        ({"dropout": "0.1"}, TypeError, ("dropout='0.1'", "below 1")),
        ({"dropout": True}, TypeError, ("dropout=True", "below 1")),
        ({"conv_kernel": 1}, ValueError, ("conv_kernel=1", "0 for none, or at least 2")),
        ({"conv_kernel": -2}, ValueError, ("conv_kernel=-2", INT)),
        ({"conv_kernel": 2.0}, TypeError, ("conv_kernel=2.0", INT)),
        ({"rope_theta": 0}, ValueError, ("rope_theta=0", "above 0, or None")),
        ({"rope_theta": "9"}, TypeError, ("rope_theta='9'", "above 0, or None")),
        ({"rope_theta": 9.0, "head_dim": 5}, ValueError, ("head_dim=5", "rope_theta=9.0", "even")),
    ],
)
def test_constructors_refuse(kind, options, error, parts):
    with fails(error, *parts):
        kind(**{"dim": 8, "heads": 2, **options})


def test_only_a_bool_normalises_queries_and_keys():
    with fails(TypeError, "use_qk_norm=1", "True or False"):
        plain.LocalAttention(8, 2, use_qk_norm=1)


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"num_hashes": 0}, ValueError, ("num_hashes=0", INT)),
        ({"num_hashes": 1.0}, TypeError, ("num_hashes=1.0", INT)),
        ({"hash_length": 0}, ValueError, ("hash_length=0", INT)),
        ({"num_buckets": 3}, ValueError, ("num_buckets=3", "even")),
        ({"num_buckets": 0}, ValueError, ("num_buckets=0", INT)),
        ({"num_buckets": -2}, ValueError, ("num_buckets=-2", INT)),
        ({"num_buckets": 4.0}, TypeError, ("num_buckets=4.0", INT)),
        ({"num_buckets": "44"}, TypeError, ("num_buckets='44'", INT)),
        ({"num_buckets": [4, 3]}, ValueError, ("num_buckets=[4, 3]", "even")),
        ({"num_buckets": [4, 2.0]}, TypeError, ("num_buckets=2.0", INT)),
        ({"num_buckets": []}, ValueError, ("num_buckets=[]", "even")),
        ({"num_chunks_before": 0}, ValueError, ("num_chunks_before=0", "at least 1")),
        ({"hash_seed": -1}, ValueError, ("hash_seed=-1", INT)),
        ({"hash_seed": 2**63}, ValueError, ("hash_seed=9223372036854775808", "below 2**63")),
        ({"hash_seed": None}, TypeError, ("hash_seed=None", INT)),
        ({"layer_index": -1}, ValueError, ("layer_index=-1", INT)),
        ({"redraw_rotations": 0}, TypeError, ("redraw_rotations=0", "True or False")),
        ({"deduplicate_rounds": None}, TypeError, ("deduplicate_rounds=None", "True or False")),
        ({"local_round": 1}, TypeError, ("local_round=1", "True or False")),
        ({"local_round": True, "scope": "chunk"}, ValueError, ("local_round=True", "band scope")),
        ({"next_values": 1}, TypeError, ("next_values=1", "True or False")),
        ({"next_values": True}, ValueError, ("next_values=True", "set local_round to True")),
        (
            {"implementation": "flex_attention", "scope": "chunk"},
            ValueError,
            ("implementation='flex_attention'", "scope='chunk'", "choose another"),
        ),
    ],
)
def test_the_constructor_of_lsh_attention_refuses(options, error, parts):
    with fails(error, *parts):
        plain.LSHAttention(8, 2, **options)


FORWARDS: list[tuple[Any, dict[str, Any], type, tuple[str, ...]]] = [
    (TOKENS.tolist(), {}, TypeError, ("x is a list", "give a tensor")),
    (TOKENS.long(), {}, TypeError, ("x has dtype torch.int64", "embedding")),
    (TOKENS[0], {}, ValueError, ("x has shape (5, 8)", "give (batch, seq, 8)")),
    (TOKENS[..., :7], {}, ValueError, ("x has shape (2, 5, 7)", "give (batch, seq, 8)")),
    (TOKENS[:, :0], {}, ValueError, ("x has shape (2, 0, 8)", "at least one token")),
    (TOKENS[:0], {}, ValueError, ("x has shape (0, 5, 8)", "at least one token")),
    (TOKENS.double(), {}, ValueError, ("x has dtype torch.float64", "float32", "to()")),
    (TOKENS.bfloat16(), {}, ValueError, ("x has dtype torch.bfloat16", "float32", "to()")),
    (TOKENS.to("meta"), {}, ValueError, ("x is on meta", "cpu", "to()")),
    (TOKENS, {"attention_mask": [1, 0]}, TypeError, ("attention_mask is a list", "a tensor")),
    (
        TOKENS,
        {"attention_mask": torch.zeros(2, 5)},
        TypeError,
        ("attention_mask has dtype torch.float32", "1 at real tokens"),
    ),
    (
        TOKENS,
        {"attention_mask": torch.ones(2, 4).long()},
        ValueError,
        ("attention_mask has shape (2, 4)", "give (2, 5)"),
    ),
    (
        TOKENS,
        {"attention_mask": torch.ones(2, 1, 5, 5).bool()},
        ValueError,
        ("attention_mask has shape (2, 1, 5, 5)", "give (2, 5)"),
    ),
    (
        TOKENS,
        {"attention_mask": torch.full((2, 5), 2)},
        ValueError,
        ("attention_mask has other values than 0 (padding) and 1",),
    ),
    (
        TOKENS,
        {"attention_mask": torch.ones(2, 5, dtype=torch.bool, device="meta")},
        ValueError,
        ("attention_mask is on meta", "cpu", "to()"),
    ),
    (TOKENS, {"seq_idx": 0}, TypeError, ("seq_idx is a int", "a tensor")),
    (
        TOKENS,
        {"seq_idx": torch.zeros(2, 5).bool()},
        TypeError,
        ("seq_idx has dtype torch.bool", "each token's document"),
    ),
    (
        TOKENS,
        {"seq_idx": torch.zeros(5).long()},
        ValueError,
        ("seq_idx has shape (5,)", "give (2, 5)"),
    ),
    (
        TOKENS,
        {"seq_idx": torch.full((2, 5), 2**62).scatter(1, torch.zeros(2, 1).long(), -(2**62))},
        ValueError,
        ("seq_idx has numbers from -4611686018427387904", "from 0"),
    ),
    (TOKENS, {"cache": {}}, TypeError, ("cache is a dict", "new_cache()")),
]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("x", "options", "error", "parts"), FORWARDS)
def test_forwards_refuse(kind, x, options, error, parts):
    with fails(error, *parts):
        kind(8, 2)(x, **options)


def test_the_module_inside_refuses():
    inside = plain.LSHAttention(8, 2).attention
    with fails(ValueError, "hidden_states has shape (5, 8)", "give (batch, seq, 8)"):
        inside(TOKENS[0])
    with fails(TypeError, "documents has dtype torch.bool", "each token's document"):
        inside(TOKENS, torch.ones(2, 5).bool())


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_rows_are_refused_where_documents_would_mix(kind):
    documents = torch.zeros(2, 5).long()
    with fails(ValueError, "seq_idx with scope='chunk'", "a row of its own"):
        kind(8, 2, scope="chunk")(TOKENS, seq_idx=documents)
    layer = kind(8, 2)
    with fails(ValueError, "seq_idx with a cache", "a row of its own"):
        layer(TOKENS, seq_idx=documents, cache=layer.new_cache())


@pytest.mark.parametrize("kind", LAYERS)
def test_caches_are_refused_where_they_would_be_wrong(kind):
    with fails(ValueError, "causal=False", "has no cache"):
        kind(8, 2, causal=False).new_cache()
    layer, other = kind(8, 2), kind(8, 2)
    cache = layer.new_cache()
    layer(TOKENS, cache=cache)
    with fails(ValueError, "cache is of another layer", "new_cache()"):
        other(TOKENS, cache=cache)
    with fails(ValueError, "x has 1 rows, the cache 2", "new_cache()"):
        layer(TOKENS[:1], cache=cache)
    assert cache.length == 5  # nothing that was refused is remembered


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_brings_other_dtypes_but_not_float64(kind):
    layer = kind(8, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(TOKENS).dtype == layer(TOKENS.bfloat16()).dtype == torch.bfloat16
        with fails(ValueError, "x has dtype torch.float64", "to()"):
            layer(TOKENS.double())


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"dim": 0, "sublayers": [torch.nn.Identity()]}, ValueError, ("dim=0", INT)),
        ({"dim": 8, "sublayers": []}, ValueError, ("sublayers is empty", "at least one")),
        ({"dim": 8, "sublayers": [torch.tanh]}, TypeError, ("Module",)),
        (
            {"dim": 8, "sublayers": [torch.nn.Identity()], "reversible": 1},
            TypeError,
            ("reversible=1", "True or False"),
        ),
    ],
)
def test_reversible_sequences_refuse(options, error, parts):
    with fails(error, *parts):
        sequences.ReversibleSequence(**options)


def test_reversible_sequences_refuse_what_does_not_fit():
    sequence = sequences.ReversibleSequence(8, [plain.LSHAttention(8, 2), torch.nn.Linear(8, 8)])
    with fails(ValueError, "x has shape (2, 5, 7)", "give (batch, seq, 8)"):
        sequence(TOKENS[..., :7])
    with fails(ValueError, "cache has 1 entries for 2 sub-layers", "new_cache()"):
        sequence(TOKENS, cache=[None])
    with fails(ValueError, "attention_mask has shape (2, 4)"):
        sequence(TOKENS, torch.ones(2, 4).long())

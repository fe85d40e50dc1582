"""Cached steps of the chunk scope against `chunk_attention` over all tokens so far."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from reformer_hf.nn.past.lsh_chunk import LSHChunkPast
from reformer_hf.ops.chunk_scope import chunk_attention
from tests.nn.past import passes
from tests.nn.past.passes import BUCKETS, LSHRows, assert_real_equal, draw_mask, spans
from tests.ops import oracle

layers = st.fixed_dictionaries(
    {
        "chunk_length": st.integers(1, 4),
        "num_chunks_before": st.integers(0, 2),
        "deduplicate_rounds": st.booleans(),
        "chunk_lengths": st.sampled_from([(), (2,), (3,), (8,)]),
    }
)
rounds = st.integers(1, 3)
paddings = st.sampled_from(passes.PADDINGS)


def new_past(**layer) -> LSHChunkPast:
    return LSHChunkPast(
        torch.zeros(0, 0, 0, 0), BUCKETS, **oracle.with_window(layer, scope="chunk")
    )


def last_of_all(rows: LSHRows, length: int, layer: dict) -> tuple[Tensor, Tensor]:
    """What `chunk_attention` over the first tokens gives the last of them, and its weights."""
    output, attention_map = chunk_attention(
        rows.query[:, :, :length],
        rows.value[:, :, :length],
        rows.buckets[..., :length],
        rows.documents[:, :length],
        num_buckets=BUCKETS,
        output_map=True,
        **oracle.with_window(layer, scope="chunk"),
    )
    assert attention_map is not None
    dense = passes.to_dense(attention_map, rows.mask.shape[1])
    return output[:, :, -1:], dense[:, :, -1:]


@given(layers, rounds, passes.passes, paddings, st.booleans(), passes.generators)
@settings(max_examples=60)
def test_a_step_is_the_last_of_all_tokens(layer, rounds, steps, padding, output_map, generator):
    """At every length; a pass of several tokens is that many steps."""
    rows = LSHRows(rounds, draw_mask(padding, steps, generator), generator)
    past = new_past(**layer)
    rows.feed(past, 0, steps[0])
    for span in spans(steps[1:], steps[0]):
        output, found = rows.feed(past, *span, output_map=output_map)
        expected = [last_of_all(rows, length + 1, layer) for length in range(*span)]
        outputs, maps = (torch.cat(parts, dim=2) for parts in zip(*expected, strict=True))
        real = rows.mask[:, slice(*span)]
        assert_real_equal(output, outputs, real)
        if output_map:
            assert found is not None
            assert_real_equal(found, maps, real)


@given(layers, rounds, passes.passes, paddings, passes.generators)
@settings(max_examples=25)
def test_the_first_pass_is_chunk_attention(layer, rounds, steps, padding, generator):
    rows = LSHRows(rounds, draw_mask(padding, steps, generator), generator)
    output, found = rows.feed(new_past(**layer), 0, sum(steps), output_map=True)
    tokens = (rows.query, rows.value, rows.buckets, rows.documents)
    expected, probabilities = oracle.chunk_lsh(*tokens, num_chunks_after=0, causal=True, **layer)
    assert_real_equal(output, expected, rows.mask)
    assert found is not None
    assert_real_equal(found, probabilities, rows.mask)


@pytest.mark.parametrize("num_rounds", [1, 2, 4])
@pytest.mark.parametrize("chunk_length, others", [(4, ()), (4, (6,)), (6, (4,)), (2, (3,))])
def test_lengths_across_every_rule(num_rounds, chunk_length, others):
    """One chunk and more, whole multiples of all chunk lengths and between, with the wrap."""
    seq = 3 * math.lcm(chunk_length, *others) + 1
    generator = torch.Generator().manual_seed(num_rounds)
    rows = LSHRows(num_rounds, draw_mask("none", [seq], generator), generator)
    layer = {"chunk_length": chunk_length, "num_chunks_before": 1, "chunk_lengths": others}
    past = new_past(**layer)
    rows.feed(past, 0, 1)
    for length in range(2, seq + 1):
        output, _ = rows.feed(past, length - 1, length)
        assert_close(output, last_of_all(rows, length, layer)[0], atol=1e-12, rtol=0)


@given(layers, rounds, passes.passes, paddings, passes.generators)
@settings(max_examples=25)
def test_each_row_is_as_alone_and_without_padding(layer, rounds, steps, padding, generator):
    rows = LSHRows(rounds, draw_mask(padding, steps, generator), generator)
    first = rows.mask[:, : steps[0]]
    output, _ = rows.feed_all(new_past(**layer), steps)
    for row, real in enumerate(rows.mask):
        if not first[row].any():
            continue  # alone, its first pass would be another one
        alone = LSHRows(rounds, rows.mask[row : row + 1, real], generator)
        alone.query, alone.value = (x[row : row + 1, :, real] for x in (rows.query, rows.value))
        alone.buckets = rows.buckets[row : row + 1, :, :, real]
        counts = [int(real[slice(*span)].sum()) for span in spans(steps)]
        expected, _ = alone.feed_all(new_past(**layer), [count for count in counts if count])
        assert_close(output[row : row + 1, :, real], expected, atol=1e-12, rtol=0)


@given(layers, rounds, passes.passes, passes.passes, passes.generators, st.data())
@settings(max_examples=25)
def test_what_is_taken_back_has_never_been(layer, rounds, steps, detour, generator, data):
    kept = sum(steps)
    mask = draw_mask("left", steps, generator)
    mask = torch.cat([mask, torch.ones(len(mask), sum(detour), dtype=torch.bool)], dim=1)
    rows = LSHRows(rounds, mask, generator)
    past, straight = new_past(**layer), new_past(**layer)
    for span in [*spans(steps), *spans(detour, kept)]:
        rows.feed(past, *span)
    left_over = data.draw(st.integers(kept, mask.shape[1] - 1))
    behind = mask.shape[1] - left_over
    assert past.can_drop(behind)
    past.drop_last(behind)
    past.drop_last(0)
    for span in [*spans(steps), (kept, left_over)]:
        if span[0] < span[1]:
            rows.feed(straight, *span)
    assert past.length == straight.length == left_over
    outputs = [rows.feed(one, left_over, mask.shape[1])[0] for one in (past, straight)]
    assert_close(*outputs, atol=1e-12, rtol=0)


def test_rows_are_chosen():
    generator = torch.Generator().manual_seed(0)
    rows = LSHRows(2, draw_mask("left", [9, 5], generator), generator)
    layer = {"chunk_length": 2, "num_chunks_before": 1}
    past, swap = new_past(**layer), torch.tensor([1, 0])
    expected = rows.feed_all(new_past(**layer), [9, 5])[0][swap, :, 9:]
    rows.feed(past, 0, 9)
    past.change_rows(lambda tensor: tensor.index_select(0, swap))
    rows.query, rows.value, rows.buckets, rows.mask = (
        x[swap] for x in (rows.query, rows.value, rows.buckets, rows.mask)
    )
    assert_close(rows.feed(past, 9, 14)[0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("length", [1, 50])
def test_bytes(length):
    """Keys, values, and for each head and round a bucket id and a place."""
    generator = torch.Generator().manual_seed(0)
    rows = LSHRows(3, draw_mask("none", [length, 2], generator), generator)
    past = new_past(chunk_length=4, num_chunks_before=1)
    for end in (length, length + 1, length + 2):
        rows.feed(past, past.length, end)
        per_token = oracle.BATCH * oracle.HEADS * (2 * oracle.DIM * 8 + 3 * (4 + 4))
        assert past.token_bytes == end * per_token
        assert past.fixed_bytes == oracle.BATCH * 8
        assert past.allocated_bytes >= past.token_bytes + past.fixed_bytes

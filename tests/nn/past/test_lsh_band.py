"""The past of the band scope against the oracle, whatever the passes, and its rollback."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_hf.nn.past.lsh_band import LSHBandPast
from tests.nn.past import passes
from tests.nn.past.passes import BUCKETS, LSHRows, assert_real_equal, draw_mask, spans
from tests.ops import oracle

layers = st.fixed_dictionaries(
    {
        "chunk_length": st.integers(1, 5),
        "num_chunks_before": st.integers(1, 2),
        "deduplicate_rounds": st.booleans(),
    }
)
rounds = st.integers(1, 3)
paddings = st.sampled_from(passes.PADDINGS)


def new_past(**window) -> LSHBandPast:
    return LSHBandPast(torch.zeros(0, 0, 0, 0), BUCKETS, **oracle.with_window(window))


@given(layers, rounds, passes.passes, paddings, st.booleans(), passes.generators)
@settings(max_examples=60)
def test_equals_the_oracle(layer, rounds, steps, padding, output_map, generator):
    """Short and long passes, so that both ways to attend are taken."""
    rows = LSHRows(rounds, draw_mask(padding, steps, generator), generator)
    output, found = rows.feed_all(new_past(**layer), steps, output_map=output_map)
    expected, probabilities = oracle.band_lsh(
        rows.query, rows.value, rows.buckets, rows.documents, **layer
    )
    assert_real_equal(output, expected, rows.mask)
    if output_map:
        assert_real_equal(found, probabilities, rows.mask)


@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.parametrize("steps", [[30], [1] * 30, [1, 29], [3, 1, 1, 24, 1], [10, 10, 10]])
def test_passes_of_any_size(steps, deduplicate):
    generator = torch.Generator().manual_seed(0)
    layer = {"chunk_length": 3, "num_chunks_before": 1, "deduplicate_rounds": deduplicate}
    rows = LSHRows(2, draw_mask("none", steps, generator), generator)
    output, _ = rows.feed_all(new_past(**layer), steps)
    expected, _ = oracle.band_lsh(rows.query, rows.value, rows.buckets, None, **layer)
    assert_real_equal(output, expected, rows.mask)


@given(layers, rounds, passes.passes, st.booleans(), passes.generators, st.data())
@settings(max_examples=60)
def test_what_is_taken_back_has_never_been(layer, rounds, steps, left, generator, data):
    """Several passes, taken back at once, in the middle of one of them or all of it."""
    kept = sum(steps)
    detour = data.draw(passes.passes, label="detour")
    mask = draw_mask("left" if left else "none", steps, generator)
    mask = torch.cat([mask, torch.ones(len(mask), sum(detour), dtype=torch.bool)], dim=1)
    rows = LSHRows(rounds, mask, generator)
    past = new_past(**layer)
    early = data.draw(st.booleans(), label="recorded from the beginning")
    past.recording = early
    for span in spans(steps):
        rows.feed(past, *span)
    past.recording = True
    for span in spans(detour, kept):
        rows.feed(past, *span)
    behind = sum(detour)
    if early and not left:
        behind += data.draw(st.integers(0, kept - 1), label="further back")
    elif data.draw(st.booleans(), label="keep some"):
        behind -= data.draw(st.integers(0, behind), label="kept of the detour")
    assert past.can_drop(behind)
    past.drop_last(behind)
    left_over = kept + sum(detour) - behind
    assert past.length == past.tokens.length == left_over
    straight = new_past(**layer)
    for start, stop in [*spans(steps), (kept, left_over)]:
        if start < min(stop, left_over):
            rows.feed(straight, start, min(stop, left_over))
    assert past.rings is not None and straight.rings is not None
    assert torch.equal(past.rings, straight.rings)
    if left_over < mask.shape[1]:
        span = (left_over, mask.shape[1])
        assert_real_equal(
            rows.feed(past, *span)[0], rows.feed(straight, *span)[0], mask[:, slice(*span)]
        )


def test_only_what_was_recorded_can_be_taken_back():
    generator = torch.Generator().manual_seed(0)
    rows = LSHRows(2, draw_mask("none", [20], generator), generator)
    past = new_past(chunk_length=2, num_chunks_before=1)
    rows.feed(past, 0, 5)
    assert past.can_drop(0) and not past.can_drop(1)
    past.recording = True
    rows.feed(past, 5, 8)
    rows.feed(past, 8, 20)
    assert past.can_drop(15) and not past.can_drop(16)
    past.drop_last(0)
    assert not past.can_drop(1) and past.length == 20


def test_rows_are_chosen_with_what_was_recorded():
    generator = torch.Generator().manual_seed(0)
    rows = LSHRows(2, draw_mask("none", [20], generator), generator)
    past, straight = (new_past(chunk_length=2, num_chunks_before=1) for _ in range(2))
    past.recording = True
    for span in ((0, 6), (6, 7), (7, 16)):
        rows.feed(past, *span)
    rows.feed(straight, 0, 6)
    swap = torch.tensor([1, 0])
    for one in (past, straight):
        one.change_rows(lambda tensor: tensor.index_select(0, swap))
    past.drop_last(10)
    assert past.rings is not None and straight.rings is not None
    assert torch.equal(past.rings, straight.rings)
    assert torch.equal(past.tokens.tokens(), straight.tokens.tokens())


@pytest.mark.parametrize("new", [1, 20])
def test_attention_dropout(new):
    """It keeps the mean, in short and in long passes."""
    generator = torch.Generator().manual_seed(0)
    rows = LSHRows(2, draw_mask("none", [6, new], generator), generator)
    layer = {"chunk_length": 2, "num_chunks_before": 1}
    expected, _ = oracle.band_lsh(rows.query, rows.value, rows.buckets, None, **layer)
    samples = []
    for _ in range(300):
        past = new_past(**layer)
        rows.feed(past, 0, 6)
        samples.append(rows.feed(past, 6, 6 + new, dropout=0.5)[0])
    sampled = torch.stack(samples)
    error = (sampled.mean(0) - expected[:, :, 6:]).abs() / (sampled.std(0) / 300**0.5 + 1e-9)
    assert sampled.std(0).max() > 0.1 and error.max() < 6


@pytest.mark.parametrize("length", [1, 50])
def test_bytes(length):
    generator = torch.Generator().manual_seed(0)
    rows = LSHRows(3, draw_mask("none", [length], generator), generator)
    past = new_past(chunk_length=4, num_chunks_before=2)
    rows.feed(past, 0, length)
    rings = oracle.BATCH * oracle.HEADS * 3 * (BUCKETS + 1) * 8 * 4
    assert past.fixed_bytes == rings
    assert past.token_bytes == length * oracle.BATCH * oracle.HEADS * 2 * oracle.DIM * 8
    assert past.allocated_bytes >= past.token_bytes + rings

"""The past of local and full layers against the oracle, whatever is forgotten or padded."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from reformer_hf.nn.past.distance import PIECE, DistancePast
from reformer_hf.ops import reference
from reformer_hf.ops.window import Window
from tests.nn.past import passes
from tests.nn.past.passes import assert_real_equal, draw_mask, new_tokens, spans, to_dense
from tests.ops import oracle

KINDS = ("band", "chunk", "full", "full_shared_qk")
layers = st.builds(
    lambda kind, length, before: Layer(kind, length, before),
    st.sampled_from(KINDS),
    st.integers(1, 5),
    st.integers(0, 2),
)
paddings = st.sampled_from(passes.PADDINGS)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of any kind."""

    kind: str
    chunk_length: int = 3
    num_chunks_before: int = 1

    def new_past(self) -> DistancePast:
        if self.kind.startswith("full"):
            return DistancePast(self_mask=self.kind == "full_shared_qk")
        scope = "band" if self.kind == "band" else "chunk"
        return DistancePast(Window(self.chunk_length, self.num_chunks_before, scope=scope))

    def seen(self, real: int) -> Tensor:
        """Which of a row's real tokens each of them may see, its own place included."""
        if self.kind == "band":
            return reference.band_counts(
                [[0] * real], [0] * real, self.chunk_length * self.num_chunks_before, 0
            )
        if self.kind == "chunk":
            window = (self.chunk_length, self.num_chunks_before, 0)
            return reference.local_chunk_counts(real, *window, causal=True)
        return torch.ones(real, real, dtype=torch.int64).tril()


class Rows:
    """Queries, keys and values of rows."""

    def __init__(self, mask: Tensor, generator: torch.Generator):
        self.tokens = passes.random_heads(mask.shape[1], generator, 3)
        self.mask = mask

    def feed(self, past: DistancePast, start: int, stop: int, **options) -> tuple:
        """Give a past the tokens of one pass; returns output and dense map, or None."""
        query, key, value = self.tokens[..., start:stop, :]
        output, found = past.decode(
            query, key, value, new_tokens(self.mask, start, stop), **options
        )
        return output, None if found is None else to_dense(found, self.mask.shape[1])

    def remember(self, past: DistancePast, stop: int) -> None:
        """Give a past its first tokens."""
        _, key, value = self.tokens[..., :stop, :]
        past.remember(key, value, new_tokens(self.mask, 0, stop))

    def expected(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """The oracle's outputs and weights of all tokens."""
        outcomes = []
        for row, head in [(r, h) for r in range(oracle.BATCH) for h in range(oracle.HEADS)]:
            real = self.mask[row].nonzero().flatten()
            query, key, value = self.tokens[:, row, head, real]
            if len(real):
                outcome = reference.attend(
                    query,
                    key,
                    value,
                    layer.seen(len(real)),
                    self_mask=layer.kind == "full_shared_qk",
                )
            else:
                outcome = value, value.new_zeros(0, 0)
            outcomes.append(oracle.spread(outcome, real, self.mask.shape[1]))
        return oracle.stack(outcomes, self.tokens[0])


def check(layer: Layer, rows: Rows, steps: list[int], output_map: bool) -> None:
    """The passes after the first give what the oracle gives."""
    past, first = layer.new_past(), steps[0]
    rows.remember(past, first)
    parts = [rows.feed(past, *span, output_map=output_map) for span in spans(steps[1:], first)]
    expected, probabilities = rows.expected(layer)
    outputs, maps = zip(*parts, strict=True)
    real = rows.mask[:, first:]
    assert past.length == sum(steps)
    assert_real_equal(torch.cat(outputs, dim=2), expected[:, :, first:], real)
    if output_map:
        assert_real_equal(torch.cat(maps, dim=2), probabilities[:, :, first:], real)


@given(layers, passes.passes, paddings, st.booleans(), passes.generators)
@settings(max_examples=100)
def test_equals_the_oracle(layer, steps, padding, output_map, generator):
    rows = Rows(draw_mask(padding, steps, generator), generator)
    check(layer, rows, steps, output_map)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", ["none", "left", "holes"])
@pytest.mark.parametrize(
    "steps", [[2 * PIECE, 1, 1, 2], [5, PIECE + 2], [1, *[1] * 20, 2 * PIECE + 1, 3]]
)
def test_forgetting_and_long_passes(kind, padding, steps):
    generator = torch.Generator().manual_seed(0)
    rows = Rows(draw_mask(padding, steps, generator), generator)
    check(Layer(kind, 2, 2), rows, steps, output_map=False)


@pytest.mark.parametrize("kind", ["band", "chunk"])
@pytest.mark.parametrize("padding", ["none", "left", "holes"])
def test_local_layers_keep_what_can_be_seen(kind, padding):
    """Their memory does not grow with the row."""
    layer, steps = Layer(kind, 2, 2), [8] * 80
    rows = Rows(draw_mask(padding, steps, torch.Generator().manual_seed(0)), torch.Generator())
    past, most = layer.new_past(), 0
    for span in spans(steps):
        rows.feed(past, *span)
        most = max(most, past.tokens.length)
    assert past.length == 640
    assert past.reach == (4 if kind == "band" else 5)
    assert past.reach <= most <= 2 * past.reach + PIECE + 8
    per_token = oracle.BATCH * oracle.HEADS * 2 * oracle.DIM * 8
    if padding != "none":
        per_token += oracle.BATCH * 2 * 8  # two places
    assert past.token_bytes == past.tokens.length * per_token
    assert past.fixed_bytes == 0


def test_full_layers_keep_all():
    generator = torch.Generator().manual_seed(0)
    rows = Rows(draw_mask("none", [300], generator), generator)
    past = Layer("full").new_past()
    rows.remember(past, 300)
    assert past.tokens.length == 300 and past.can_drop(299)
    assert past.token_bytes == 300 * oracle.BATCH * oracle.HEADS * 2 * oracle.DIM * 8


@given(layers, passes.passes, passes.passes, st.booleans(), passes.generators, st.data())
@settings(max_examples=60)
def test_what_is_taken_back_has_never_been(layer, steps, detour, left, generator, data):
    kept = sum(steps)
    mask = draw_mask("left" if left else "none", steps, generator)
    mask = torch.cat([mask, torch.ones(len(mask), sum(detour), dtype=torch.bool)], dim=1)
    rows = Rows(mask, generator)
    expected, _ = rows.expected(layer)
    past = layer.new_past()
    past.recording = True
    for span in [*spans(steps), *spans(detour, kept)]:
        rows.feed(past, *span)
    left_over = data.draw(st.integers(kept, mask.shape[1] - 1))
    behind = mask.shape[1] - left_over
    assert past.can_drop(behind)
    past.drop_last(behind)
    assert past.length == left_over
    span = (left_over, mask.shape[1])
    output, _ = rows.feed(past, *span)
    assert_real_equal(output, expected[:, :, slice(*span)], mask[:, slice(*span)])


@pytest.mark.parametrize("kind", ["band", "chunk"])
def test_what_was_forgotten_cannot_be_taken_back(kind):
    generator = torch.Generator().manual_seed(0)
    layer, seq = Layer(kind, 2, 2), 3 * PIECE
    rows = Rows(draw_mask("none", [seq], generator), generator)
    past, recorded = layer.new_past(), layer.new_past()
    recorded.recording = True
    for one in (past, recorded):
        rows.remember(one, seq)
    assert past.can_drop(0) and not past.can_drop(1)
    assert recorded.can_drop(seq - 1)
    recorded.drop_last(0)
    assert recorded.tokens.length == recorded.reach and not recorded.can_drop(1)


@pytest.mark.parametrize("padding", ["none", "left"])
def test_rows_are_chosen(padding):
    generator = torch.Generator().manual_seed(0)
    layer, swap = Layer("band"), torch.tensor([1, 0])
    rows = Rows(draw_mask(padding, [9, 5], generator), generator)
    expected = rows.expected(layer)[0][swap, :, 9:]
    past = layer.new_past()
    rows.remember(past, 9)
    past.change_rows(lambda tensor: tensor.index_select(0, swap))
    rows.tokens, rows.mask = rows.tokens[:, swap], rows.mask[swap]
    assert_close(rows.feed(past, 9, 14)[0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("padding", ["none", "left", "holes"])
def test_what_is_refused_is_not_counted(padding):
    generator = torch.Generator().manual_seed(0)
    layer, rows = Layer("band"), Rows(draw_mask(padding, [6, 5], generator), generator)
    past = layer.new_past()
    rows.remember(past, 6)
    tokens, rows.tokens = rows.tokens, rows.tokens.float()
    with pytest.raises(ValueError, match="dtype torch.float32, those of earlier passes"):
        rows.feed(past, 6, 11)
    assert past.length == past.tokens.length == 6
    rows.tokens = tokens
    expected = rows.expected(layer)[0][:, :, 6:]
    assert_real_equal(rows.feed(past, 6, 11)[0], expected, rows.mask[:, 6:])


def test_attention_dropout():
    generator = torch.Generator().manual_seed(0)
    layer, rows = Layer("full"), Rows(draw_mask("none", [9], generator), generator)
    expected, _ = rows.expected(layer)
    samples = []
    for _ in range(300):
        past = layer.new_past()
        rows.remember(past, 6)
        samples.append(rows.feed(past, 6, 9, dropout=0.5)[0])
    sampled = torch.stack(samples)
    error = (sampled.mean(0) - expected[:, :, 6:]).abs() / (sampled.std(0) / 300**0.5)
    assert sampled.std(0).min() > 0.1 and error.max() < 6

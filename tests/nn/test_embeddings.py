"""Embeddings of positions, for any number of axes, and of n-grams."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformers import ReformerConfig
from transformers.models.reformer.modeling_reformer import AxialPositionEmbeddings as Stock

from reformer_hf.nn.embeddings import (
    AxialPositionEmbeddings,
    LearnedPositionEmbeddings,
    NgramEmbeddings,
)
from reformer_hf.ops.ngrams import hash_ngrams

SHAPES = st.lists(st.integers(1, 4), min_size=2, max_size=4)


def build(shape: list[int], dropout: float = 0.0) -> AxialPositionEmbeddings:
    dims = range(2, 2 + len(shape))
    module = AxialPositionEmbeddings(shape=shape, dims=list(dims), dropout=dropout)
    for weight in module.weights:
        torch.nn.init.normal_(weight)
    return module


def grid(module: AxialPositionEmbeddings) -> Tensor:
    """Every position's embedding, by walking over the cells of the grid in order."""
    cells = itertools.product(*(range(length) for length in module.shape))
    rows = []
    for cell in cells:
        parts = []
        for axis, (weight, coordinate) in enumerate(zip(module.weights, cell, strict=True)):
            index = [0] * len(cell)
            index[axis] = coordinate
            parts.append(weight[tuple(index)])
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@given(shape=SHAPES, data=st.data())
def test_a_position_has_the_embedding_of_its_cell(shape, data):
    module = build(shape)
    cells = grid(module)
    ids = st.integers(0, len(cells) - 1)
    positions = torch.tensor([data.draw(st.lists(ids, min_size=1, max_size=9))])
    assert torch.equal(module(positions), cells[positions])


def test_gradients_reach_the_cells_looked_up_and_no_others():
    module = build([3, 4])
    module(torch.tensor([[5, 5, 7]])).sum().backward()  # cells (1, 1) twice and (1, 3)
    assert module.weights[0].grad.flatten(0, -2)[:, 0].tolist() == [0, 3, 0]
    assert module.weights[1].grad.flatten(0, -2)[:, 0].tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize("shape", [[3, 4], [2, 3, 2]])
def test_a_position_beyond_the_grid_is_an_error(shape):
    for position in (12, -1):
        with pytest.raises(IndexError):
            build(shape)(torch.tensor([[position]]))


def test_weights_and_values_are_those_of_transformers():
    config = ReformerConfig(
        axial_pos_shape=[4, 6], axial_pos_embds_dim=[2, 3], hidden_size=5, hidden_dropout_prob=0.0
    )
    stock, module = Stock(config), build([4, 6])
    for weight in stock.parameters():
        torch.nn.init.normal_(weight)
    module.load_state_dict(stock.state_dict())  # the same names and shapes
    positions = torch.arange(24).expand(2, -1)
    assert_close(module(positions), stock.train()(positions))


def test_learned_positions_are_rows_of_a_table():
    module = LearnedPositionEmbeddings(max_positions=7, hidden_size=3)
    positions = torch.tensor([[6, 0, 3]])
    assert torch.equal(module(positions), module.embedding.weight[positions])
    with pytest.raises(IndexError):
        module(torch.tensor([[7]]))


def test_dropout_acts_in_training_only():
    for module in (
        build([20, 20], dropout=0.5),
        LearnedPositionEmbeddings(max_positions=400, hidden_size=5, dropout=0.5),
    ):
        positions = torch.arange(400)[None]
        assert 0.4 < (module(positions) == 0).double().mean() < 0.6
        assert (module.eval()(positions) != 0).all()


def test_ngrams_are_looked_up_and_added():
    module = NgramEmbeddings(sizes=[2, 3], table_size=16, hidden_size=4)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    found = module(ids)
    rows = hash_ngrams(torch.tensor([[5, 2, 4], [2, 5, 2]]), [2, 3], 16)  # ids and one
    expected = module.embedding.weight[rows].sum(dim=1)
    torch.testing.assert_close(found[0, [2, 3]], torch.stack([expected[0], expected[1]]))

"""Axial positions over rows, columns and channels: training, saving and cached generation."""

import math

import pytest
import torch
from torch.testing import assert_close

from reformer_hf import ReformerHFForCausalLM
from tests.models.tiny import loss_and_gradients, random_ids, tiny_config, tiny_lm

SHAPE = [4, 5, 3]
AXES = {"axial_pos_shape": SHAPE, "axial_pos_embds_dim": [6, 6, 4], "eos_token_id": None}
ROW = 5 * 3  # bytes of a row of pixels


def test_the_axes_of_imagenet64():
    config = tiny_config(
        hidden_size=1024,
        axial_pos_shape=[64, 64, 3],
        axial_pos_embds_dim=[384, 384, 256],
    )
    assert config.position_limit == config.max_position_embeddings == 12_288
    with torch.device("meta"):
        model = ReformerHFForCausalLM(config)
    tables = model.reformer.embeddings.position_embeddings.weights
    assert [tuple(table.shape) for table in tables] == [
        (64, 1, 1, 384),
        (1, 64, 1, 384),
        (1, 1, 3, 256),
    ]


@pytest.mark.parametrize("reversible", [True, False])
def test_all_axes_are_trained(reversible):
    model = tiny_lm(**AXES, reversible=reversible).train()
    ids = random_ids(2, math.prod(SHAPE))
    _, gradients = loss_and_gradients(model, input_ids=ids, labels=ids)
    tables = [grad for name, grad in gradients.items() if "position_embeddings" in name]
    assert [tuple(table.shape) for table in tables] == [(4, 1, 1, 6), (1, 5, 1, 6), (1, 1, 3, 4)]
    assert all((table != 0).any(dim=-1).all() for table in tables)


def test_cached_generation_is_uncached_generation_over_all_rows():
    model = tiny_lm(**AXES).double()
    arguments = {"max_new_tokens": math.prod(SHAPE) - ROW // 2 + 1, "do_sample": False}
    prompt = random_ids(2, ROW // 2)
    outputs = model.generate(
        prompt, **arguments, output_logits=True, return_dict_in_generate=True, pad_token_id=0
    )
    # One token more than there are positions: the last one is written, but never read.
    assert outputs.sequences.shape == (2, math.prod(SHAPE) + 1)
    with torch.no_grad():
        expected = model(outputs.sequences[:, :-1]).logits[:, prompt.shape[1] - 1 :]
    assert_close(torch.stack(outputs.logits, dim=1).double(), expected, rtol=1e-6, atol=1e-6)
    with torch.no_grad():  # the positions count: with those of the row before it is another text
        shifted = model(outputs.sequences[:, :ROW], position_ids=torch.arange(ROW) + ROW).logits
        assert (shifted - model(outputs.sequences[:, :ROW]).logits).abs().max() > 1e-2


def test_three_axes_survive_saving(tmp_path):
    model = tiny_lm(**AXES)
    model.save_pretrained(tmp_path)
    loaded = ReformerHFForCausalLM.from_pretrained(tmp_path)
    ids = random_ids(1, math.prod(SHAPE))
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert loaded.config.axial_pos_shape == SHAPE

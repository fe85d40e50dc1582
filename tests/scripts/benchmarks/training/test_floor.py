"""The floor has the products of the model, and those of its backward."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from scripts.benchmarks.training.floor import BLOCK_ROWS, Floor, operations, products
from scripts.benchmarks.training.peers import build_trainee
from tests.scripts.benchmarks.tiny import SHAPE


def counted(function):
    counter = FlopCounterMode(display=False)
    with counter:
        function()
    return {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}


@torch.no_grad()
def test_linear_layers_are_those_of_the_model():
    trainee = build_trainee("band", SHAPE, 64)
    model = counted(lambda: trainee.loss(torch.randint(1, 20, (2, 64))))
    linear = {"projections", "feed-forward, in", "feed-forward, out", "head"}
    floor = sum(one.operations for one in products(SHAPE, 128) if one.name in linear)
    assert floor == sum(count for name, count in model.items() if name in ("aten.mm", "aten.addmm"))


def test_attention_and_hashing():
    # 128 tokens, 2 heads of 8, a local layer (one round) and an LSH layer (2 rounds), chunks of 16.
    found = {one.name: one.operations for one in products(SHAPE, 128)}
    assert found["scores"] == found["sums of values"] == 2 * (128 * 2 * 3) * 8 * 32
    assert found["hashing"] == 2 * (128 * 2) * 8 * (2 * 4 // 2)


def test_what_is_counted_is_run():
    floor = Floor(SHAPE, 128, torch.float32)
    forward = sum(counted(floor.forward).values())
    both = forward + sum(counted(floor.backward).values())
    assert forward == operations(SHAPE, 128, training=False)
    assert both == operations(SHAPE, 128, training=True)
    by_name = {one.name: one.operations for one in products(SHAPE, 128)}
    hashing, head = by_name["hashing"], by_name["head"]
    assert both == 4 * forward - 3 * hashing - head


def test_long_rows_are_cut_into_blocks():
    for one in products(SHAPE, 3 * BLOCK_ROWS):
        assert one.rows <= BLOCK_ROWS and one.batch * one.rows <= 2 * BLOCK_ROWS
    linear = products(SHAPE, 3 * BLOCK_ROWS)[-1]
    assert (linear.count, linear.rows) == (3, BLOCK_ROWS)

"""Rotations and bucket ids."""

import importlib.util
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_hf.ops import hashing, reference
from reformer_hf.ops.hashing import (
    bucket_factors,
    default_num_buckets,
    derive_seed,
    hash_vectors,
    sample_rotations,
    total_buckets,
)

SAMPLERS = [sample_rotations, partial(sample_rotations, layer_index=None)]
NUM_BUCKETS = [2, 4, 10, [2, 4], [4, 2, 6]]


@pytest.mark.parametrize("num_buckets", NUM_BUCKETS, ids=str)
def test_bucket_ids_equal_the_oracle(num_buckets):
    vectors = torch.randn(2, 3, 40, 6, dtype=torch.float64)
    rotations = sample_rotations(0, 3, 6, 4, num_buckets)
    buckets = hash_vectors(vectors, rotations, num_buckets)
    for b in range(2):
        for h in range(3):
            expected = reference.hash_buckets(vectors[b, h], rotations[h], num_buckets)
            assert buckets[b, h].tolist() == expected
    assert set(buckets.unique().tolist()) <= set(range(total_buckets(num_buckets)))
    assert buckets.unique().numel() > total_buckets(num_buckets) // 2


@pytest.mark.parametrize("num_buckets", [2, 8])
def test_opposite_vectors_get_opposite_buckets(num_buckets):
    vectors = torch.randn(1, 2, 50, 6)
    rotations = sample_rotations(0, 2, 6, 3, num_buckets)
    there, back = (hash_vectors(sign * vectors, rotations, num_buckets) for sign in (1, -1))
    assert torch.equal(back, (there + num_buckets // 2) % num_buckets)
    assert torch.equal(hash_vectors(3 * vectors, rotations, num_buckets), there)


@pytest.mark.parametrize("num_buckets", NUM_BUCKETS, ids=str)
@given(st.data())
@settings(max_examples=20)
def test_ties_fall_as_in_the_oracle(num_buckets, data):
    """Coordinates from a few whole numbers: equal ones, opposite ones and zeros."""
    columns = sum(bucket_factors(num_buckets)) // 2
    whole = st.lists(st.integers(-1, 1), min_size=columns, max_size=columns)
    rows = torch.tensor(data.draw(st.lists(whole, min_size=1, max_size=6)), dtype=torch.float32)
    identity = torch.eye(columns).view(1, columns, 1, columns)
    buckets = hash_vectors(rows[None, None], identity, num_buckets)
    assert buckets[0, 0].tolist() == reference.hash_buckets(rows, identity[0], num_buckets)


@given(st.integers(1, 30), st.integers(0, 30), st.sampled_from(NUM_BUCKETS))
@settings(max_examples=20)
def test_buckets_do_not_depend_on_the_length(seq, more, num_buckets):
    vectors = torch.randn(1, 2, seq + more, 6, dtype=torch.float64)
    rotations = sample_rotations(1, 2, 6, 2, num_buckets)
    longer = hash_vectors(vectors, rotations, num_buckets)
    assert torch.equal(hash_vectors(vectors[:, :, :seq], rotations, num_buckets), longer[..., :seq])


def test_hashing_stays_in_float32_under_autocast_and_for_half_precision():
    vectors = torch.randn(2, 2, 500, 16)
    rotations = sample_rotations(0, 2, 16, 2, 32)
    buckets = hash_vectors(vectors, rotations, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hash_vectors(vectors, rotations, 32), buckets)
    half = vectors.bfloat16()
    assert torch.equal(hash_vectors(half, rotations, 32), hash_vectors(half.float(), rotations, 32))


def test_hashing_keeps_nothing_for_backward():
    vectors = torch.randn(1, 2, 5, 4, requires_grad=True)
    rotations, kept = sample_rotations(0, 2, 4, 3, [2, 4]), []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda nothing: nothing):
        hash_vectors(vectors, rotations, [2, 4])
    assert kept == []


@pytest.mark.parametrize("sample", SAMPLERS)
def test_no_global_generator_is_touched(sample):
    states = torch.get_rng_state(), str(np.random.get_state())
    rotations = sample(0, 2, 4, 3, [2, 4])
    hash_vectors(torch.ones(1, 2, 5, 4), rotations, [2, 4])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == states[1]


@pytest.mark.parametrize("sample", SAMPLERS)
def test_rotations_are_normal_and_decided_by_the_seed_alone(sample):
    rotations = sample(3, 8, 64, 4, [16, 32])
    assert rotations.shape == (8, 64, 4, 24) and rotations.dtype == torch.float32
    torch.rand(7)  # moves the global generator
    assert torch.equal(sample(3, 8, 64, 4, [16, 32]), rotations)
    assert not torch.equal(sample(4, 8, 64, 4, [16, 32]), rotations)
    # 49,152 draws: five standard errors of mean and deviation.
    assert abs(rotations.mean()) < 5 / 49152**0.5
    assert abs(rotations.std() - 1) < 5 / (2 * 49152) ** 0.5
    heads_and_rounds = rotations.transpose(1, 2).flatten(0, 1).flatten(1)
    assert torch.corrcoef(heads_and_rounds).fill_diagonal_(0).abs().max() < 0.15  # 5 / sqrt(1536)


def test_more_rounds_leave_the_first_ones_alone():
    rotations = sample_rotations(3, 2, 4, 5, 6)
    for rounds in range(1, 5):
        assert torch.equal(sample_rotations(3, 2, 4, rounds, 6), rotations[:, :, :rounds])


def test_shared_rotations_are_one_draw_of_the_global_generator():
    found = sample_rotations(11, 2, 8, 3, [4, 6], layer_index=None)
    torch.manual_seed(11)
    assert torch.equal(found, torch.randn(2, 8, 3, 5))


def test_derived_seeds_differ_by_path_and_stay_the_same():
    paths = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (10,), (1, 0, 0)]
    seeds = {derive_seed(seed, *path) for seed in (0, 1, 2**40) for path in paths}
    assert len(seeds) == 3 * len(paths)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0) == 2631537505891389924  # on every machine and in every version


def test_bad_bucket_counts_and_rotations_are_refused():
    for wrong in (3, 0, -2, [4, 3], []):
        with pytest.raises(ValueError, match="must be an even number"):
            bucket_factors(wrong)
    rotations = sample_rotations(0, 1, 4, 1, 8)
    with pytest.raises(ValueError, match="4 columns, but num_buckets=6 needs 3"):
        hash_vectors(torch.ones(1, 1, 2, 4), rotations, 6)


@given(st.integers(1, 2**21), st.integers(1, 512))
@settings(max_examples=60)
def test_default_bucket_count_fills_the_window_on_average(hash_length, window):
    num_buckets = default_num_buckets(hash_length, window)
    total, wanted = total_buckets(num_buckets), hash_length / window
    assert isinstance(num_buckets, int) == (2 * round(wanted / 2) <= 128)
    if isinstance(num_buckets, int):
        assert total == max(2, 2 * round(wanted / 2))
    else:
        # Two even factors, each at most one from its ideal.
        first, second = num_buckets
        assert abs(first - wanted**0.5) < 2.5
        assert abs(second - wanted / first) <= 1.5


def test_copies_of_the_module_do_not_take_each_others_operator():
    # Torch frees an operator when another of its name is made; calling it was undefined behaviour.
    names = []
    for name in ("first.copy", "a folder (v2)+x"):
        spec = importlib.util.spec_from_file_location(name, hashing.__file__)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        names.append(module._draw._qualname)
    assert len({*names, hashing._draw._qualname}) == 3

"""Hashed n-grams against a written-out loop."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_hf.ops.ngrams import hash_ngrams, last_tokens


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_last_tokens_are_those_of_the_own_document(seed, seq, count, packed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 9, (2, seq), generator=generator)
    documents = torch.randint(0, 3, (2, seq), generator=generator) if packed else None
    found = last_tokens(tokens, count, documents)
    for row in range(2):
        for place in range(seq):
            own = [
                int(tokens[row, other])
                for other in range(place, -1, -1)
                if documents is None or documents[row, other] == documents[row, place]
            ]
            assert found[row, place].tolist() == (own + [0] * count)[:count]


def test_each_size_has_rows_of_its_own():
    last = torch.randint(0, 259, (2, 500, 4))
    rows = hash_ngrams(last, [2, 4], 64)
    assert rows.shape == (2, 500, 2)
    assert rows[..., 0].min() >= 0 and rows[..., 0].max() < 64
    assert rows[..., 1].min() >= 64 and rows[..., 1].max() < 128
    assert len(rows[..., 1].unique()) == 64  # and all are used
    assert torch.equal(hash_ngrams(last.int(), [2, 4], 1000), hash_ngrams(last, [2, 4], 1000))


def test_a_row_depends_on_its_own_tokens_and_their_order():
    last = torch.tensor([5, 6, 7])
    sizes, table = [2, 3], 2**20
    rows = hash_ngrams(last, sizes, table)
    assert torch.equal(rows[:1], hash_ngrams(torch.tensor([5, 6, 8]), sizes, table)[:1])
    assert rows[1] != hash_ngrams(torch.tensor([5, 6, 8]), sizes, table)[1]
    assert rows[0] != hash_ngrams(torch.tensor([6, 5, 7]), sizes, table)[0]


def test_bigrams_of_bytes_rarely_collide():
    pairs = torch.cartesian_prod(torch.arange(1, 257), torch.arange(1, 257))
    rows = hash_ngrams(pairs, [2], 2**16).squeeze(-1)
    # 65,536 balls in as many urns leave (1 - 1/e) of them filled if thrown at random.
    assert len(rows.unique()) > 0.6 * 2**16

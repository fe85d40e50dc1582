"""A buffer of tokens: what was stored is what is read, whatever the growth."""

import torch
from torch import Tensor

from reformer_hf.nn.past.token_store import LEAST_CAPACITY, TokenStore


def random_tokens(seq: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, seq, 4)


def filled(*blocks: Tensor) -> TokenStore:
    store = TokenStore()
    for block in blocks:
        store.append(block)
    return store


def test_blocks_of_all_sizes_are_kept_in_order():
    blocks = [random_tokens(seq) for seq in (1, 1, 100, 26, 1, 300, 2, 1)]
    store = filled(*blocks)
    expected = torch.cat(blocks, dim=2)
    assert store.length == expected.shape[2] == 432
    assert torch.equal(store.tokens(), expected)
    assert torch.equal(store.tokens(5), expected[:, :, 5:])
    assert torch.equal(store.tokens(5, 9), expected[:, :, 5:9])
    assert store.tokens(7, 7).shape[2] == 0


def test_it_grows_by_an_eighth():
    store, moves, capacity = TokenStore(), 0, 0
    for length in range(1, 4 * LEAST_CAPACITY + 1):
        store.append(random_tokens(1))
        assert store.bytes_per_token == 2 * 3 * 4 * 4
        room = store.allocated_bytes // store.bytes_per_token
        assert length <= room <= max(LEAST_CAPACITY, length + length // 8)
        moves, capacity = moves + (room != capacity), room
    assert moves < 16  # and not one for each append


def test_taking_others_for_each_row_and_head():
    tokens = random_tokens(40)
    store = filled(tokens)
    index = torch.randint(40, (2, 3, 5, 6))
    found = store.take(index)
    assert found.shape == (2, 3, 5, 6, 4)
    for row in range(2):
        for head in range(3):
            assert torch.equal(found[row, head], tokens[row, head][index[row, head]])


def test_taking_ignores_the_room_to_grow():
    """Places count from the row's own beginning, however large the buffer is."""
    tokens = random_tokens(LEAST_CAPACITY + 1)
    store = filled(tokens[:, :, :3], tokens[:, :, 3:])
    last = torch.full((2, 3, 1), LEAST_CAPACITY)
    assert torch.equal(store.take(last), tokens[:, :, -1:])


def test_forgetting_at_either_end():
    tokens = random_tokens(20)
    store = filled(tokens)
    store.drop_last(4)
    store.keep_last(10)
    assert torch.equal(store.tokens(), tokens[:, :, 6:16])
    store.keep_last(10)
    store.append(tokens[:, :, :1])
    assert torch.equal(store.tokens(), torch.cat([tokens[:, :, 6:16], tokens[:, :, :1]], dim=2))
    store.keep_last(0)
    assert store.length == 0 and store.tokens().shape == (2, 3, 0, 4)
    store.append(tokens)
    assert torch.equal(store.tokens(), tokens)


def test_forgetting_frees_memory():
    store = filled(random_tokens(5000))
    store.keep_last(10)
    assert store.allocated_bytes <= LEAST_CAPACITY * store.bytes_per_token


def test_replacing():
    store, other = filled(random_tokens(5)), random_tokens(7)
    store.replace(other)
    assert store.length == 7 and torch.equal(store.tokens(), other)


def test_choosing_rows():
    tokens, more = random_tokens(5), random_tokens(2, batch=3)
    store, rows = filled(tokens), torch.tensor([1, 1, 0])
    store.change_rows(lambda tensor: tensor.index_select(0, rows))
    store.append(more)
    assert torch.equal(store.tokens(), torch.cat([tokens[rows], more], dim=2))
    assert torch.equal(store.take(torch.full((3, 3, 1), 6)), more[:, :, 1:])


def test_an_empty_store():
    store = TokenStore()
    store.change_rows(lambda tensor: tensor[:1])
    assert store.length == store.bytes_per_token == store.allocated_bytes == 0
    assert store.device is None


def test_nothing_stored_has_a_gradient():
    tokens = random_tokens(3).requires_grad_()
    store = filled(tokens)
    assert not store.tokens().requires_grad
    with torch.no_grad():
        tokens.zero_()
    assert store.tokens().abs().sum() > 0  # a copy

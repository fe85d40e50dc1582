"""What a masked language model's training adds to a causal one's."""

import pytest

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.mlm import MASK_TOKEN, MaskedDataArguments, add_mask_token


def test_max_seq_length_is_another_name_of_block_size():
    assert MaskedDataArguments(train_file="a", max_seq_length=64).block_size == 64
    assert MaskedDataArguments(train_file="a", block_size=64).block_size == 64
    assert MaskedDataArguments(train_file="a", block_size=64, max_seq_length=64).block_size == 64
    with pytest.raises(ValueError, match="max_seq_length=64 and block_size=32 are the same"):
        MaskedDataArguments(train_file="a", block_size=32, max_seq_length=64)
    with pytest.raises(ValueError, match="block_size=0: must be at least 1"):
        MaskedDataArguments(train_file="a", max_seq_length=0)


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1])
def test_a_share_of_the_tokens_is_masked(probability):
    with pytest.raises(ValueError, match=f"mlm_probability={probability}: choose a share"):
        MaskedDataArguments(train_file="a", mlm_probability=probability)


def test_a_tokenizer_gets_a_mask_token_once():
    tokenizer = ReformerHFByteTokenizer()
    add_mask_token(tokenizer)
    assert tokenizer.mask_token == MASK_TOKEN and len(tokenizer) == 259
    assert tokenizer(f"a{MASK_TOKEN}b").input_ids.count(tokenizer.mask_token_id) == 1
    add_mask_token(tokenizer)
    assert len(tokenizer) == 259

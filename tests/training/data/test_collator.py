import pytest
import torch

from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.data.collator import ReformerDataCollator
from tests.models.tiny import random_ids, tiny_lm

TOKENIZER = ReformerHFByteTokenizer(mask_token="<mask>")


def row(*ids, **columns):
    return {"input_ids": list(ids), **columns}


def test_rows_are_padded_on_the_right_to_the_longest():
    batch = ReformerDataCollator(TOKENIZER)([row(5, 6, 7), row(0, 8)])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 8, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    # A pad token inside a text is an ordinary token.
    assert batch["labels"].tolist() == [[5, 6, 7], [0, 8, -100]]
    batch = ReformerDataCollator(TOKENIZER, pad_to_multiple_of=8)([row(5, 6, 7)])
    assert all(tensor.shape == (1, 8) for tensor in batch.values())


def test_the_first_token_of_a_packed_document_has_no_label():
    batch = ReformerDataCollator(TOKENIZER)(
        [row(5, 6, 7, 8, seq_idx=[0, 0, 1, 2]), row(9, 9, seq_idx=[0, 0])]
    )
    assert batch["labels"].tolist() == [[5, 6, -100, -100], [9, 9, -100, -100]]
    assert batch["seq_idx"].tolist() == [[0, 0, 1, 2], [0, 0, 0, 0]]


def test_labels_that_are_there_are_kept():
    batch = ReformerDataCollator(TOKENIZER)([row(5, 6, labels=[-100, 3]), row(7)])
    assert batch["labels"].tolist() == [[-100, 3], [7, -100]]


@pytest.mark.parametrize("multiple", [None, 16, 64])
@pytest.mark.parametrize("scope", ["band", "chunk"])
def test_padding_changes_neither_loss_nor_gradients(scope, multiple):
    # In chunks the loss is computed in float64, too.
    fields = {"redraw_rotations": False, "chunk_size_lm_head": 8}
    model = tiny_lm(attention_scope=scope, **fields).double().train()
    rows = [row(*random_ids(length, seed=length).tolist()) for length in (21, 6, 33, 1)]
    collate = ReformerDataCollator(TOKENIZER, pad_to_multiple_of=multiple)
    parameters = [p for p in model.parameters() if p.requires_grad]
    together = model(**collate(rows), num_items_in_batch=1).loss
    found = torch.autograd.grad(together, parameters)
    alone = sum(
        model(torch.tensor([r["input_ids"]]), labels=torch.tensor([r["input_ids"]])).loss
        * (len(r["input_ids"]) - 1)
        for r in rows[:3]
    )
    expected = torch.autograd.grad(alone, parameters)
    assert float((together - alone).detach().abs()) <= 1e-10 * float(alone.detach())
    for ours, other in zip(found, expected, strict=True):
        assert torch.allclose(ours, other, rtol=0, atol=1e-10)


def test_masked_tokens_are_the_labels_and_special_ones_are_never_hidden():
    rows = [row(*random_ids(400, seed=1, low=2, high=258).tolist(), 1), row(70, 71, 1)]
    collate = ReformerDataCollator(TOKENIZER, mlm=True, mlm_probability=0.5, seed=0)
    batch = collate([{**each} for each in rows])
    ids = ReformerDataCollator(TOKENIZER)(rows)["input_ids"]
    asked = batch["labels"] != -100
    assert torch.equal(batch["labels"][asked], ids[asked])
    assert torch.equal(batch["input_ids"][~asked], ids[~asked])
    share = float(asked[0].sum()) / 400
    assert 0.4 < share < 0.6
    hidden = (batch["input_ids"] == TOKENIZER.mask_token_id)[asked].double().mean()
    assert 0.7 < hidden < 0.9
    assert not asked[ids <= 1].any() and not asked[1, 3:].any()


def test_masks_come_from_the_seed_or_from_the_default_generator():
    rows = [row(*random_ids(50).tolist())]

    def masked(seed):
        return ReformerDataCollator(TOKENIZER, mlm=True, seed=seed)(rows)["input_ids"]

    assert torch.equal(masked(3), masked(3)) and not torch.equal(masked(3), masked(4))
    state = torch.get_rng_state()
    first = masked(None)
    assert not torch.equal(masked(None), first)
    torch.set_rng_state(state)
    assert torch.equal(masked(None), first)


def test_a_row_with_labels_is_not_masked():
    collate = ReformerDataCollator(TOKENIZER, mlm=True, mlm_probability=1.0)
    batch = collate([row(5, labels=[-100]), row(5, 6)])
    assert batch["input_ids"][0].tolist() == [5, 0] and batch["labels"][0].tolist() == [-100] * 2
    assert batch["labels"][1].tolist() == [5, 6]


def test_a_mask_needs_a_mask_token():
    with pytest.raises(ValueError, match="mask token"):
        ReformerDataCollator(ReformerHFByteTokenizer(), mlm=True)

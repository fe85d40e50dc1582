import math

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer, ReformerHFTokenizer
from reformer_hf.training.data.collator import ReformerDataCollator
from reformer_hf.training.data.packing import pack_rows, tokenize_documents
from reformer_hf.training.data.rows import FilledRows
from reformer_hf.training.data.token_bytes import TokenBytes
from reformer_hf.training.evaluation import next_tokens, score_batches
from tests.models.heads import HEADS
from tests.models.tiny import random_ids, tiny_lm
from tests.training.other_tokenizers import EXACT, word_piece

BYTES = ReformerHFByteTokenizer()


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def score(accelerator, rows, tokenizer=BYTES, batch_size=2, **fields):
    model = tiny_lm(vocab_size=258, **fields).train()
    collate = ReformerDataCollator(tokenizer)
    filled = FilledRows(rows, 4)
    batches = [
        collate([filled[i] for i in range(start, start + batch_size)])
        for start in range(0, len(filled), batch_size)
    ]
    found = score_batches(model, batches, tokenizer, accelerator)
    assert model.training
    return found


def rows_of(*texts):
    return [{"input_ids": [*BYTES(text).input_ids, 1]} for text in texts]


def test_every_token_counts_the_same_and_blank_rows_nothing(accelerator):
    rows = rows_of("a", "some longer text é", "more")
    found = score(accelerator, rows)
    model, nats, tokens = tiny_lm(vocab_size=258), 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            nats += float(model(ids, labels=ids).loss) * (ids.numel() - 1)
        tokens += ids.numel() - 1
    assert found.tokens == tokens == 1 + 19 + 4
    assert found.bytes == 0 + 18 + 3  # without the first byte of each row, which nothing predicts
    assert found.loss == pytest.approx(nats / tokens, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / 21, rel=1e-6)
    for batch_size, chunk in ((1, 0), (4, 0), (2, 3)):
        other = score(accelerator, rows, batch_size=batch_size, chunk_size_lm_head=chunk)
        assert other.loss == pytest.approx(found.loss, rel=1e-5)


def test_packed_documents_are_counted_one_by_one(accelerator):
    texts = ["first é", "second"]
    alone = score(accelerator, rows_of(*texts))
    ids = [row["input_ids"] for row in rows_of(*texts)]
    packed = [{"input_ids": ids[0] + ids[1], "seq_idx": [0] * len(ids[0]) + [1] * len(ids[1])}]
    together = score(accelerator, packed)
    assert (together.tokens, together.bytes) == (alone.tokens, alone.bytes)
    assert together.loss == pytest.approx(alone.loss, rel=1e-5)


def test_words_are_charged_to_their_bytes(accelerator):
    words = ReformerHFTokenizer.train_from_iterator(["the cat and the dog"], 60)
    text = "the cat and the dog"
    ids = words(text).input_ids
    found = score(accelerator, [{"input_ids": ids}], words)
    first = words.decode(ids[:1])
    assert found.tokens == len(ids) - 1 < found.bytes == len(text) - len(first)


def test_nothing_to_predict_is_an_error_and_no_perfect_score(accelerator):
    with pytest.raises(ValueError, match="no row of the evaluation has two tokens of one document"):
        score(accelerator, [{"input_ids": [5]}])
    assert score(accelerator, [{"input_ids": [5, 1]}]).bits_per_byte is None


def test_masked_models_are_asked_for_the_places_themselves(accelerator):
    model = HEADS["masked language model"].build()
    rows = [random_ids(1, seq, seed=seq) for seq in (7, 12)]
    labels = [ids.masked_fill(torch.arange(ids.shape[1]) % 3 > 0, -100) for ids in rows]
    batches = [{"input_ids": i, "labels": t} for i, t in zip(rows, labels, strict=True)]
    found = score_batches(model, batches, BYTES, accelerator, masked=True)
    counts = [3, 4]  # the first token among them
    with torch.no_grad():
        losses = [model(**batch).loss.item() for batch in batches]
    expected = sum(n * loss for n, loss in zip(counts, losses, strict=True)) / 7
    assert found.tokens == 7 and found.loss == pytest.approx(expected, rel=1e-6)
    assert not {"eval_bits_per_byte", "eval_bytes"} & set(found.metrics())


def test_bytes_that_are_no_text_count_one_each(accelerator):
    latin = [byte + 2 for byte in "é\xff\xfe".encode("latin-1")]
    cut = [byte + 2 for byte in "日本".encode()[1:-1]]
    found = score(accelerator, [{"input_ids": [5, *latin]}, {"input_ids": [5, *cut]}])
    assert found.tokens == found.bytes == 3 + 4


def test_a_tokenizer_that_was_loaded_again_counts_the_same(accelerator, tmp_path):
    BYTES.save_pretrained(tmp_path)
    rows = [{"input_ids": [5, *range(low, low + 64)]} for low in range(2, 258, 64)]
    rows.append({"input_ids": [5, 6, 7, 1, 0]})
    found = score(accelerator, rows)
    for loaded in (AutoTokenizer, PreTrainedTokenizerFast):
        assert score(accelerator, rows, loaded.from_pretrained(tmp_path)) == found
    assert found.bytes == 256 + 2


@pytest.mark.parametrize("make", EXACT)
@pytest.mark.parametrize("block_size", [3, 64])
def test_the_rows_of_a_text_have_its_bytes(accelerator, make, block_size, tmp_path):
    tokenizer, text = make(), "the cat, 日本 🙂 \ufffd  </w>\n"
    data = tokenize_documents(Dataset.from_dict({"text": [text, "", "é"]}), tokenizer)
    rows = list(pack_rows(data, block_size, cache_dir=str(tmp_path)))
    model = tiny_lm(vocab_size=len(tokenizer))
    collate = ReformerDataCollator(ReformerHFByteTokenizer())  # which has a pad token
    found = score_batches(model, [collate([row]) for row in rows], tokenizer, accelerator)
    # The first token of a row is not predicted, and may have bytes where a document was cut.
    ids = torch.tensor([0, *(index for row in rows for index in row["input_ids"])])
    heads = torch.arange(1, len(ids), block_size)
    lost = TokenBytes.of(tokenizer).count(ids[heads], ids[heads - 1])
    assert found.bytes == len((text + "é").encode()) - lost
    assert lost == 0 or block_size == 3


def test_tokens_that_stand_for_no_bytes_have_no_bits_per_byte(accelerator):
    tokenizer = word_piece()
    found = score(accelerator, [tokenizer("the cats")], tokenizer)
    assert found.tokens == 4 and found.bytes is None and found.bits_per_byte is None
    assert found.loss > 0 and found.metrics().keys() == {
        "eval_loss",
        "eval_perplexity",
        "eval_tokens",
    }


def test_what_each_place_is_asked_for(accelerator):
    """Left padding and packed documents without labels of their own, and given targets."""
    model = tiny_lm(vocab_size=258)
    ids = random_ids(2, 12, low=2, high=258)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    documents = torch.arange(12).expand(2, -1) // 4
    for batch, tokens in (
        ({"attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}, 11 + 6),
        ({"seq_idx": documents, "labels": ids}, 2 * 9),
        ({"labels": ids, "shift_labels": ids}, 24),
    ):
        batch = {"input_ids": ids, **batch}
        found = score_batches(model, [batch], BYTES, accelerator)
        assert found.tokens == found.bytes == tokens
        targets = next_tokens(batch)
        with torch.no_grad():
            inputs = {k: v for k, v in batch.items() if "labels" not in k}
            logits = model(**inputs).logits
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        assert found.loss == pytest.approx(float(expected), rel=1e-5)


def test_rows_of_bytes_are_scored_by_their_likelihood_again_and_again(accelerator):
    model = tiny_lm(vocab_size=258).train()
    rows = [random_ids(1, 40, seed=seed)[0] for seed in range(3)]
    rows[1][20] = 1  # an end of sequence costs bits but is no byte
    batches = [ReformerDataCollator(BYTES)([{"input_ids": row} for row in rows])]
    first = score_batches(model, batches, BYTES, accelerator)
    torch.rand(3)
    assert score_batches(model, batches, BYTES, accelerator) == first and model.training
    nats = size = 0.0
    with torch.no_grad():
        for ids in rows:
            log_probs = model.eval()(ids[None]).logits[0].double().log_softmax(-1)
            nats -= float(log_probs[:-1].gather(1, ids[1:, None]).sum())
            size += int((ids[1:] >= 2).sum())
    assert first.bytes == size
    assert first.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)

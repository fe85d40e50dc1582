import bz2
import gzip
import math
import random

import pytest
import torch
from accelerate import Accelerator

from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer, ReformerHFTokenizer
from reformer_hf.training.data.collator import ReformerDataCollator
from reformer_hf.training.data.rows import FilledRows
from reformer_hf.training.evaluation import compressor_scores, score_batches
from tests.models.heads import HEADS
from tests.models.tiny import random_ids, tiny_lm

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


def test_nothing_to_predict_is_no_number(accelerator):
    found = score(accelerator, [{"input_ids": [5]}])
    assert (found.tokens, found.bytes, found.bits_per_byte) == (0, 0, None)
    assert found.metrics("test")["test_tokens"] == 0


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
    assert "eval_bits_per_byte" not in found.metrics()


def test_bytes_that_are_no_text_count_one_each(accelerator):
    latin = [byte + 2 for byte in "é\xff\xfe".encode("latin-1")]
    cut = [byte + 2 for byte in "日本".encode()[1:-1]]
    found = score(accelerator, [{"input_ids": [5, *latin]}, {"input_ids": [5, *cut]}])
    assert found.tokens == found.bytes == 3 + 4


def test_compressors_on_a_known_text():
    noise = random.Random(0).randbytes(5000)
    for text in (b"The quick brown fox jumps over the lazy dog. " * 60, noise, b"a"):
        gzip_9, bz2_9, uniform = compressor_scores(text)
        assert gzip_9 == 8 * len(gzip.compress(text, compresslevel=9)) / len(text)
        assert bz2_9 == 8 * len(bz2.compress(text, 9)) / len(text)
        assert uniform == 8.0
    assert gzip_9 > 8  # the header is counted


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

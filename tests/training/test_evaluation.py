import bz2
import gzip
import math
import random

import pytest
import torch
from torch import nn
from transformers import set_seed

from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.evaluation import compressor_scores, score_held_out

TEXT = ("The quick brown fox jumps over the lazy dog. " * 60).encode()[:2048]


class Windows(list):
    """Windows of 128 ids."""

    def __init__(self, ids):
        rows = torch.tensor(ids).view(-1, 128)
        super().__init__({"input_ids": row, "labels": row} for row in rows)


class ConstantModel(nn.Module):
    """Gives every target the same probability; a loss as transformers defines it."""

    device = torch.device("cpu")

    def __init__(self, bits: float):
        super().__init__()
        self.bits, self.modes = bits, []

    def forward(self, input_ids, labels):
        assert torch.equal(input_ids, labels) and not torch.is_grad_enabled()
        self.modes.append(self.training)
        return type("Output", (), {"loss": torch.tensor(self.bits * math.log(2))})


def test_compressors_on_a_known_text():
    noise = random.Random(0).randbytes(5000)
    for text in (TEXT, noise, b"a"):
        gzip_9, bz2_9, uniform = compressor_scores(text)
        assert gzip_9 == 8 * len(gzip.compress(text, compresslevel=9)) / len(text)
        assert bz2_9 == 8 * len(bz2.compress(text, 9)) / len(text)
        assert uniform == 8.0
    assert gzip_9 > 8  # the header is counted


def test_a_constant_model_scores_its_bits():
    windows = Windows(ReformerHFByteTokenizer.encode_bytes(TEXT))
    model = ConstantModel(3.0).train()
    score = score_held_out(model, windows, batch_size=2)
    assert score.bits_per_byte == pytest.approx(3.0, abs=1e-6)
    assert (score.windows, score.context, score.windows_overlap) == (16, 128, False)
    assert score.bytes_scored == 16 * 127  # the first byte of a window has no context
    assert model.modes == [False] * 8 and model.training
    scored = b"".join(TEXT[start + 1 : start + 128] for start in range(0, 2048, 128))
    assert score.gzip_9_bits_per_byte == 8 * len(gzip.compress(scored, 9)) / len(scored)
    assert score.bz2_9_bits_per_byte == 8 * len(bz2.compress(scored, 9)) / len(scored)


def test_ends_of_documents_cost_bits_but_are_not_bytes():
    ids = ReformerHFByteTokenizer.encode_bytes(TEXT[:128])
    ids[40] = ids[80] = 1
    score = score_held_out(ConstantModel(2.0), Windows(ids))
    assert score.bytes_scored == 125
    assert score.bits_per_byte == pytest.approx(2.0 * 127 / 125, rel=1e-6)


def test_a_reformers_score_is_repeatable_and_is_its_likelihood(splits, tiny_model):
    _, held_out = splits
    first = score_held_out(tiny_model.train(), held_out, batch_size=2)
    set_seed(123)
    assert score_held_out(tiny_model.eval(), held_out, batch_size=2) == first
    with torch.no_grad():
        nats = 0.0
        for window in held_out:
            ids = window["input_ids"]
            log_probs = tiny_model(ids[None]).logits[0].double().log_softmax(-1)
            nats -= float(log_probs[:-1].gather(1, ids[1:, None]).sum())
    assert first.bits_per_byte == pytest.approx(nats / math.log(2) / first.bytes_scored, rel=1e-5)

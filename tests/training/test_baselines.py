import bz2
import gzip
import math
import random
from collections import Counter

import pytest

from reformer_hf.training.baselines import Baselines, compressor_scores

TEXT = b"The quick brown fox jumps over the lazy dog. " * 60
NOISE = random.Random(0).randbytes(5000)


def entropy(events) -> float:
    counts = Counter(events)
    return -sum(n * math.log2(n / counts.total()) for n in counts.values())


@pytest.mark.parametrize("content", [TEXT, NOISE, b"a"])
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_all_baselines_of_a_text_in_pieces(content, piece):
    if piece == 1:
        content = content[:300]
    baselines = Baselines()
    for start in range(0, len(content), piece):
        baselines.update(content[start : start + piece])
        baselines.update(b"")
    found, size = baselines.bits_per_byte(), len(content)
    pairs = list(zip(content, content[1:], strict=False))
    assert found == {
        "uniform": 8.0,
        "single bytes": pytest.approx(entropy(content) / size),
        "pairs of bytes": pytest.approx((entropy(pairs) - entropy(content[:-1])) / size),
        "gzip -9": 8 * len(gzip.compress(content, 9)) / size,
        "bz2 -9": 8 * len(bz2.compress(content, 9)) / size,
    }
    names = ("gzip -9", "bz2 -9", "uniform")
    assert compressor_scores(content) == {name: found[name] for name in names}


def test_nothing_has_no_baselines():
    assert Baselines().bits_per_byte() == {}

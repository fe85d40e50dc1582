"""N-grams with modified Kneser-Ney smoothing: by hand, against loops, and as distributions."""

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_hf.training.counts import FALLBACK_DISCOUNTS, NGrams
from reformer_hf.training.data.symbols import Symbols

START = -1  # what stands before a text


def symbols_of(*texts, scored=None):
    codes = [code for text in texts for code in text]
    before = [place for text in texts for place in range(len(text))]
    marks = np.ones(len(codes), bool) if scored is None else np.array(scored, bool)
    return Symbols(np.array(codes, np.int64), np.array(before, np.int64), marks)


class SlowKneserNey:
    """The definition, n-gram by n-gram."""

    def __init__(self, texts, alphabet, order):
        self.alphabet = alphabet
        self.counts = [Counter() for _ in range(order + 1)]
        before = [{} for _ in range(order + 1)]
        for text in texts:
            for n, counts in enumerate(self.counts):
                for end in range(n, len(text)):
                    gram = tuple(text[end - n : end + 1])
                    counts[gram] += 1
                    predecessor = text[end - n - 1] if end > n else START
                    before[n].setdefault(gram, set()).add(predecessor)
        self.continuations = [{gram: len(seen) for gram, seen in each.items()} for each in before]

    def probability(self, gram, counts=None):
        """Of the last symbol of a gram behind the others."""
        n = len(gram) - 1
        counts = self.counts[n] if counts is None else counts
        lower = (
            self.probability(gram[1:], self.continuations[n - 1])
            if n
            else Fraction(1, self.alphabet)
        )
        behind = {other: count for other, count in counts.items() if other[:-1] == gram[:-1]}
        if not behind:
            return lower
        discounts = [0, *self.discounts(counts)]
        taken = {other: discounts[min(count, 3)] for other, count in behind.items()}
        total = sum(behind.values())
        kept = behind.get(gram, 0) - taken.get(gram, 0)
        return (kept + sum(taken.values()) * lower) / total

    def discounts(self, counts):
        ones, twos, threes, fours = (
            sum(count == number for count in counts.values()) for number in (1, 2, 3, 4)
        )
        if ones and twos and threes and fours:
            rate = Fraction(ones, ones + 2 * twos)
            found = (
                1 - 2 * rate * Fraction(twos, ones),
                2 - 3 * rate * Fraction(threes, twos),
                3 - 4 * rate * Fraction(fours, threes),
            )
            if min(found) > 0:
                return found
        return tuple(map(Fraction, FALLBACK_DISCOUNTS))

    def bits(self, text, order):
        grams = (text[max(0, end - order) : end + 1] for end in range(len(text)))
        return -sum(math.log2(self.probability(tuple(gram))) for gram in grams)


def texts_of(letters):
    return st.lists(st.lists(st.integers(0, letters - 1), max_size=40), max_size=4)


@settings(max_examples=60, deadline=None)
@given(texts_of(3), texts_of(4), st.integers(0, 3))
def test_as_the_definition_has_it(train, held_out, order):
    model, slow = NGrams(4, order), SlowKneserNey(train, 4, order)
    for text in train:  # piece by piece
        model.update(symbols_of(text))
    found = model.bits(symbols_of(*held_out))
    for n in range(order + 1):
        assert found[n] == pytest.approx(sum(slow.bits(text, n) for text in held_out), abs=1e-9)
    assert len(model) == len(slow.counts[order])


def test_one_that_is_counted_by_hand():
    # "aab": a twice, b once. The discounts are the fallback's, as no count is 3 or 4.
    model = NGrams(2, 1)
    model.update(symbols_of([0, 0, 1]))
    # 1.0 of a's two counts and 0.5 of b's one are shared out evenly: (1 + 0.75, 0.5 + 0.75) / 3.
    assert model.probabilities([]) == pytest.approx([1.75 / 3, 1.25 / 3])
    # As continuations: before a stood the beginning and a, before b stood a. So the same shares.
    # Behind a: once a, once b, of which 0.5 each is shared out.
    behind = [(0.5 + 1.75 / 3) / 2, (0.5 + 1.25 / 3) / 2]
    assert model.probabilities([0]) == pytest.approx(behind)
    assert model.probabilities([1]) == pytest.approx([1.75 / 3, 1.25 / 3])  # nothing behind b yet
    # The first symbol of a text has none before it.
    bits = -math.log2(1.75 / 3) - math.log2(behind[1])
    assert model.bits(symbols_of([0, 1]))[1] == pytest.approx(bits)
    # A symbol that is not scored is still before another.
    bits = model.bits(symbols_of([0, 1], scored=[False, True]))
    assert bits == pytest.approx([-math.log2(1.25 / 3), -math.log2(behind[1])])


def real_text():
    return list(Path(__file__).read_bytes()[:4000])


@pytest.mark.parametrize(
    "context", [b"", b"d", b"de", b"def", b"def ", b"\xff\xfe\xfd\xfc", b"de\0f"]
)
def test_bytes_are_a_distribution(context):
    model = NGrams(256, 4)
    model.update(symbols_of(real_text()))
    found = model.probabilities(context)
    assert found.shape == (256,) and (found > 0).all()
    assert found.sum() == pytest.approx(1.0, abs=1e-12)


def test_discounts_of_real_text_are_its_own():
    """And the higher orders know more of it."""
    text = real_text()
    cut = len(text) * 3 // 4
    model, slow = NGrams(256, 4), SlowKneserNey([text[:cut]], 256, 4)
    assert slow.discounts(slow.counts[2]) != FALLBACK_DISCOUNTS
    model.update(symbols_of(text[:cut]))
    bits = model.bits(symbols_of(text[cut:])) / (len(text) - cut)
    assert bits[0] > bits[1] > bits[2] > bits[4]
    few = text[cut : cut + 5]
    assert model.bits(symbols_of(few))[3] == pytest.approx(slow.bits(few, 3))


def test_nothing_counted_is_a_uniform_guess():
    assert NGrams(256, 4).bits(symbols_of([1, 2, 3])) == pytest.approx([24.0] * 5)
    assert NGrams(256, 4).bits(symbols_of([])) == pytest.approx([0.0] * 5)


def test_long_n_grams_of_large_alphabets_are_refused():
    with pytest.raises(ValueError, match="order=4: n-grams over an alphabet of 50000 must fit"):
        NGrams(50_000, 4)
    assert NGrams(1_000_000, 1).order == 1

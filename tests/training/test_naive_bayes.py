"""Naive Bayes on byte pairs against scikit-learn's, and by hand."""

import math

import numpy as np
import pytest
from sklearn.naive_bayes import MultinomialNB

from reformer_hf.training.naive_bayes import BytePairBayes, byte_pairs

RANDOM = np.random.default_rng(0)
TEXTS = [
    RANDOM.integers(97, 103, length, dtype=np.uint8).tobytes()
    for length in RANDOM.integers(0, 40, 50)
]
CLASSES = RANDOM.integers(0, 3, 50)
FLAGS = RANDOM.random((50, 3)) < 0.4


def count(texts):
    rows = [np.bincount(byte_pairs(text), minlength=1 << 16) for text in texts]
    return np.stack(rows)


def test_pairs_are_numbers_of_two_bytes():
    assert byte_pairs(b"\x01\x02\xff\xff").tolist() == [258, 767, 65535]
    assert byte_pairs(b"a").size == byte_pairs(b"").size == 0


def test_classes_are_those_of_scikit_learn():
    counts = count(TEXTS)
    known = counts.any(axis=0)
    theirs = MultinomialNB(alpha=1.0).fit(counts[:, known], CLASSES)
    new = [*TEXTS[:9], b"zzz", b"abzab", b"a", b""]
    expected = theirs.predict_joint_log_proba(count(new)[:, known])
    ours = BytePairBayes(TEXTS, CLASSES[:, None] == range(3)).scores(new)
    assert ours == pytest.approx(expected)


def test_several_classes_are_told_from_their_opposites():
    counts = count(TEXTS)
    known = counts.any(axis=0)
    ours = BytePairBayes(TEXTS, FLAGS, several=True).scores(TEXTS)
    for column, flags in enumerate(FLAGS.T):
        theirs = MultinomialNB(alpha=1.0).fit(counts[:, known], flags)
        lost, won = theirs.predict_joint_log_proba(counts[:, known]).T
        assert ours[:, column] == pytest.approx(won - lost)


def test_by_hand():
    bayes = BytePairBayes([b"aaa", b"ab", b"ab"], np.array([[1, 0], [0, 1], [0, 1]], bool))
    # The pairs aa and ab, each once more than seen: 3 and 1 of 4, 1 and 3 of 4.
    (scores,) = bayes.scores([b"aab"])
    assert scores == pytest.approx([math.log(1 / 3 * 3 / 4 / 4), math.log(2 / 3 / 4 * 3 / 4)])


def test_a_class_without_a_text_is_never_chosen():
    scores = BytePairBayes(TEXTS, CLASSES[:, None] == range(4)).scores([b"abc", b""])
    assert (scores[:, 3] == -np.inf).all() and np.isfinite(scores[:, :3]).all()
    several = BytePairBayes([b"ab", b"b"], np.array([[True, False]] * 2), several=True)
    assert several.scores([b"ab"]).tolist() == [[np.inf, -np.inf]]

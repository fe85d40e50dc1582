"""Multinomial naive Bayes on pairs of neighbouring bytes, which classifies texts by counts."""

from collections.abc import Sequence

import numpy as np

_PAIRS = 1 << 16
_COUNTED = 1 << 20  # pairs at a time


class BytePairBayes:
    """Naive Bayes on the counts of byte pairs, each plus one; pairs that it never saw are left out.

    Args:
        texts: to count.
        belongs: which text is in which class, bool, (texts, classes).
        several: whether a text may be in any number of classes, each of which is then told from
            its opposite, rather than in one.
    """

    def __init__(self, texts: Sequence[bytes], belongs: np.ndarray, several: bool = False):
        pairs = [byte_pairs(text) for text in texts]
        totals = _count(pairs)
        known = np.flatnonzero(totals)
        self._column = np.full(_PAIRS, -1)
        self._column[known] = np.arange(len(known))
        members = [[pairs[row] for row in np.flatnonzero(flags)] for flags in belongs.T]
        counts = np.stack([_count(each)[known] for each in members])
        shares = belongs.mean(axis=0)
        with np.errstate(divide="ignore"):  # a class without a text is never chosen
            self._priors, self._weights = np.log(shares), _log_shares(counts)
            if several:
                self._priors = self._priors - np.log(1 - shares)
                self._weights = self._weights - _log_shares(totals[known] - counts)

    def scores(self, texts: Sequence[bytes]) -> np.ndarray:
        """Score a batch of texts; it takes half a MiB for each.

        Returns:
            float64, (texts, classes): log-probabilities of text and class; of classes of which a
            text may have several, the log-odds of having each.
        """
        width = self._weights.shape[1]
        columns = [self._column[byte_pairs(text)] for text in texts]
        places = [row * width + each[each >= 0] for row, each in enumerate(columns)]
        counts = np.bincount(np.concatenate(places), minlength=len(texts) * width)
        return self._priors + counts.reshape(len(texts), width) @ self._weights.T


def byte_pairs(text: bytes) -> np.ndarray:
    """Number the pairs of neighbouring bytes, uint16, (bytes - 1,)."""
    codes = np.frombuffer(text, np.uint8).astype(np.uint16)
    return codes[:-1] * 256 + codes[1:]


def _count(pairs: Sequence[np.ndarray]) -> np.ndarray:
    total, joined = np.zeros(_PAIRS, np.int64), np.concatenate([np.empty(0, np.uint16), *pairs])
    for first in range(0, len(joined), _COUNTED):
        total += np.bincount(joined[first : first + _COUNTED], minlength=_PAIRS)
    return total


def _log_shares(counts: np.ndarray) -> np.ndarray:
    """Logarithms of the shares in each row, (classes, pairs), every count plus one."""
    return np.log((counts + 1) / (counts + 1).sum(axis=1, keepdims=True))

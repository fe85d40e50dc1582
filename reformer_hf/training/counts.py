"""What counts of short strings know of a text: n-grams with modified Kneser-Ney smoothing.

Counted on one text and scored on another, as a language model is. The symbols are bytes or tokens.

Source: S. F. Chen, J. Goodman, An Empirical Study of Smoothing Techniques for Language Modeling,
TR-10-98, Harvard University, 1998: interpolated Kneser-Ney with three discounts for each order.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reformer_hf.training.data.symbols import Symbols

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Where counts of counts give none: those of KenLM's `--discount_fallback`."""

_NOTHING = np.zeros(0, np.int64)


class _Distribution(NamedTuple):
    probabilities: np.ndarray  # of the n-grams that were seen, (n-grams,)
    left: np.ndarray  # for the lower order, by context, (contexts,)


class _Order(NamedTuple):
    keys: np.ndarray  # of the n-grams, ascending; divided by the alphabet, of their contexts
    contexts: np.ndarray  # keys, ascending
    of_counts: _Distribution
    of_continuations: _Distribution  # what the order above it falls back on


class NGrams:
    """Models of a text that predict each symbol from `order` symbols before it, at most.

    All orders from 0 up are there, each smoothed by those below it and at last by a uniform
    distribution. Near the beginning of a text the order of as many symbols as there are predicts.

    Args:
        alphabet: number of different symbols, 256 for bytes.
        order: the highest order; an n-gram is one symbol longer.

    Raises:
        ValueError: if n-grams are too long for a number of 63 bits.
    """

    def __init__(self, alphabet: int, order: int):
        if alphabet ** (order + 1) >= 1 << 63:
            raise ValueError(
                f"order={order}: n-grams over an alphabet of {alphabet} must fit into 63 bits; "
                "choose a lower order"
            )
        self.alphabet, self.order = alphabet, order
        # Keys and counts: of an order those where a text begins, of the highest order all.
        self._counts = [(_NOTHING, _NOTHING)] * (order + 1)
        self._orders: list[_Order] = []

    def __len__(self) -> int:
        """Number of different n-grams of the highest order."""
        return len(self._counts[self.order][0])

    def update(self, symbols: Symbols) -> None:
        """Count the n-grams of more texts, whether they are scored or not."""
        self._orders = []
        for order, (keys, counts) in enumerate(self._counts):
            is_highest = order == self.order
            chosen = symbols.before >= order if is_highest else symbols.before == order
            new, times = self._distinct(symbols.codes, chosen, order)
            if len(new):
                stacked = np.concatenate([keys, new]), np.concatenate([counts, times])
                keys, _, counts = _group(*stacked)
                self._counts[order] = keys, counts

    def bits(self, symbols: Symbols) -> np.ndarray:
        """Bits of all scored symbols by the models of each order, (order + 1,)."""
        self._fit()
        bits, near_the_beginning = np.zeros(self.order + 1), 0.0
        for order in range(self.order + 1):
            far = symbols.scored & (symbols.before >= order)
            near = symbols.scored & (symbols.before == order)
            bits[order] = near_the_beginning + self._price(symbols.codes, far, order)
            near_the_beginning += self._price(symbols.codes, near, order)
        return bits

    def probabilities(self, context: Sequence[int]) -> np.ndarray:
        """Probability of each symbol behind a context, (alphabet,); its length is the order."""
        self._fit()
        key = 0
        for code in context:
            key = key * self.alphabet + code
        keys = key * self.alphabet + np.arange(self.alphabet, dtype=np.int64)
        return self._look_up(keys, len(context), of_counts=True)

    def _distinct(
        self, codes: np.ndarray, chosen: np.ndarray, order: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams that end at chosen places: distinct keys, and how often each is there."""
        ends = np.flatnonzero(chosen)
        keys = np.zeros(len(ends), np.int64)
        for distance in range(order, -1, -1):
            keys *= self.alphabet
            keys += codes[ends - distance]
        return np.unique(keys, return_counts=True)

    def _price(self, codes: np.ndarray, chosen: np.ndarray, order: int) -> float:
        keys, counts = self._distinct(codes, chosen, order)
        return float(-(counts * np.log2(self._look_up(keys, order, of_counts=True))).sum()) + 0.0

    def _fit(self) -> None:
        """Make the distributions of the counts, unless they are there."""
        if self._orders:
            return
        keys, counts = self._counts[self.order]
        # By order, the highest first, which nothing falls back on: keys, counts, continuations.
        tables: list[tuple[np.ndarray, ...]] = [(keys, counts, counts)]
        shorter = []  # places of n-grams without their first symbol, in the order below
        for order in reversed(range(self.order)):
            keys, counts, _ = tables[-1]
            begins, times = self._counts[order]
            stacked = np.concatenate([keys % self.alphabet ** (order + 1), begins])
            times = np.concatenate([counts, times])
            # The beginning of a text is one more symbol that may stand before an n-gram.
            distinct, places, *sums = _group(stacked, times, np.ones_like(times))
            tables.append((distinct, *sums))
            shorter.append(places[: len(keys)])
        lower = np.full(len(tables[-1][0]), 1 / self.alphabet)
        for keys, counts, continuations in reversed(tables):
            contexts, places = np.unique(keys // self.alphabet, return_inverse=True)
            both = (_smooth(amounts, places, lower) for amounts in (counts, continuations))
            self._orders.append(_Order(keys, contexts, *both))
            if shorter:
                lower = self._orders[-1].of_continuations.probabilities[shorter.pop()]

    def _look_up(self, keys: np.ndarray, order: int, of_counts: bool = False) -> np.ndarray:
        """Probabilities of n-grams; one that was never seen has its share of the lower order."""
        if order < 0:
            return np.full(len(keys), 1 / self.alphabet)
        known = self._orders[order]
        distribution = known.of_counts if of_counts else known.of_continuations
        places, seen = _find(keys, known.keys)
        found = np.empty(len(keys))
        found[seen] = distribution.probabilities[places[seen]]
        unseen = keys[~seen]
        places, seen_context = _find(unseen // self.alphabet, known.contexts)
        left = np.ones(len(unseen))
        left[seen_context] = distribution.left[places[seen_context]]
        found[~seen] = left * self._look_up(unseen % self.alphabet**order, order - 1)
        return found


def _group(keys: np.ndarray, *amounts: np.ndarray) -> list[np.ndarray]:
    """Distinct keys, the place of each key among them, and sums of amounts by key."""
    order = np.argsort(keys, kind="stable")  # which merges runs that are sorted already
    ordered = keys[order]
    is_first = np.diff(ordered, prepend=-1) != 0
    places = np.empty_like(order)
    places[order] = np.cumsum(is_first) - 1
    first = np.flatnonzero(is_first)
    return [ordered[first], places, *(np.add.reduceat(each[order], first) for each in amounts)]


def _find(keys: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of keys among ascending ones, and which of them are there."""
    places = np.searchsorted(among, keys)
    inside = places < len(among)
    inside[inside] = among[places[inside]] == keys[inside]
    return places, inside


def _smooth(counts: np.ndarray, places: np.ndarray, lower: np.ndarray) -> _Distribution:
    """Discount the counts, and mix what is left with the lower order.

    Args:
        counts: of n-grams, (n-grams,).
        places: of their contexts, (n-grams,).
        lower: their probabilities without their first symbols, (n-grams,).
    """
    discounts = np.concatenate([[0.0], _discounts(counts)])[np.minimum(counts, 3)]
    totals = np.bincount(places, counts)
    left = np.bincount(places, discounts) / totals
    return _Distribution((counts - discounts) / totals[places] + left[places] * lower, left)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken from counts of 1, of 2, and of 3 or more."""
    once, twice, *_ = numbers = np.bincount(np.minimum(counts, 5), minlength=6)[1:5]
    if numbers.all():
        rate = once / (once + 2 * twice)
        sizes = np.arange(1, 4)
        found = sizes - (sizes + 1) * rate * numbers[1:] / numbers[:-1]
        if (found > 0).all():
            return found
    return np.array(FALLBACK_DISCOUNTS)

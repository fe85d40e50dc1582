"""Simple methods on labelled rows, by hand."""

import numpy as np
import pytest
from datasets import Dataset

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.data.labelled import ClassificationDataArguments
from reformer_hf.training.data.labelled_tokens import tokenize_rows
from reformer_hf.training.data.labels import find_labels
from reformer_hf.training.label_baselines import draw_rows, label_references


def references(train, held_out, task="sequence", **fields):
    """Scores of the methods by name, for rows of a text, or words, and a label each."""
    text, label = ("text", "label") if task == "sequence" else ("tokens", "ner_tags")
    rows = {
        split: Dataset.from_list([{text: each, label: value} for each, value in part])
        for split, part in (("train", train), ("validation", held_out))
    }
    arguments = ClassificationDataArguments(train_file="a", task_name=task, **fields)
    labels = find_labels(rows["train"], label, task, None)
    tokenizer = ReformerHFByteTokenizer()
    tokens = {s: tokenize_rows(r, tokenizer, arguments, labels, None) for s, r in rows.items()}
    return {each.name: each.scores for each in label_references(labels, arguments, rows, tokens)}


def test_texts_of_a_class():
    train = [("aaaa", "x"), ("aaab", "x"), ("aa", "x"), ("bbbé", "y")]
    found = references(train, [("aaa", "x"), ("bbb", "y")])
    assert found == {
        "majority class": {"accuracy": 0.5, "f1_macro": pytest.approx(1 / 3)},
        "naive Bayes on byte pairs": {
            **{"accuracy": 1.0, "f1_macro": 1.0, "train_samples": 4, "train_bytes": 15}
        },
    }


def test_texts_with_several_labels():
    train = [("aaaa", ["x"]), ("aabb", ["x", "y"]), ("aaa", ["x"])]
    found = references(train, [("aaa", ["x"]), ("bbbb", ["y"])])
    assert found["majority of each label"] == {"f1_micro": 0.5, "accuracy": 0.5}
    # All training texts have x, so that it is certain; y goes by the pairs.
    assert found["naive Bayes on byte pairs"]["f1_micro"] == pytest.approx(2 * 2 / (3 + 2))


def test_numbers_have_a_mean():
    found = references([("a", 0.5), ("b", 1.5)], [("c", 2.0), ("d", 1.0)])
    assert found == {"mean": {"mse": 0.5, "mae": 0.5}}


WORDS = [
    (["the", "cat", "cat"], ["O", "B-X", "O"]),
    (["a", "cat"], ["O", "B-X"]),
    (["new", "york"], ["B-Y", "I-Y"]),
]


def test_words():
    held_out = [(["a", "cat", "purrs"], ["O", "B-X", "O"]), (["york", "new"], ["B-Y", "B-X"])]
    found = references(WORDS, held_out, "token")
    # O for all; and by word O B-X O, I-Y B-Y.
    assert found["most frequent label"]["accuracy"] == 2 / 5
    assert found["most frequent label"]["entity_f1"] == 0
    by_word = found["most frequent label of each word"]
    assert by_word["accuracy"] == 3 / 5
    # Proposed: the cat, a lone I-Y, which is right, as it ends before the next, and a B-Y.
    assert by_word["entity_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert (by_word["train_samples"], by_word["train_bytes"]) == (3, 9 + 4 + 7)


def test_words_beyond_the_longest_row_do_not_count_and_all_tokens_may():
    held_out = [(["cat", "new", "york"], ["B-X", "O", "O"])]
    cut = references(WORDS, held_out, "token", max_seq_length=7)
    assert cut["most frequent label of each word"]["accuracy"] == 1 / 2  # york is cut
    every = references(WORDS, held_out, "token", max_seq_length=7, label_all_tokens=True)
    # The bytes of "cat" and of " new", of which those of the cat are right.
    assert every["most frequent label of each word"]["accuracy"] == pytest.approx(3 / 7)


def test_the_rows_that_are_counted_are_from_all_over_and_the_same_each_time():
    rows = Dataset.from_list([{"text": "é" * 5, "words": ["ab", "c"]} for _ in range(3000)])
    chosen, size = draw_rows(rows, ["text"], limit=1000)
    assert size == 1000 and len(chosen) == 100 and (np.diff(chosen) > 0).all()
    assert chosen.min() < 300 and chosen.max() > 2700
    assert (draw_rows(rows, ["text"], limit=1000)[0] == chosen).all()
    every, size = draw_rows(rows, ["text", "words"])
    assert (every == np.arange(3000)).all() and size == 3000 * 13

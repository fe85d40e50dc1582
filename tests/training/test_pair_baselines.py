"""Translating without a model, by hand."""

import math

import pytest
from datasets import Dataset

from reformer_hf.training.pair_baselines import pair_references, token_reference


def test_one_target_for_all_and_copies():
    train = Dataset.from_list([{"target": text} for text in ("ja  ja", "nein", "ja  ja")])

    def share_of_equals(translations, references):
        pairs = zip(translations, references, strict=True)
        return {"bleu": 100 * sum(a == b for a, b in pairs) / len(references)}

    targets = ["ja ja", "Hotel", "Taxi", "ja ja"]
    found = pair_references(share_of_equals, train, ["yes", "Hotel", "Taxi\n", "Taxi"], targets)
    assert {each.name: each.scores["bleu"] for each in found} == {
        "most frequent target": 50,
        "copies of the sources": 50,
    }
    assert (found[0].scores["train_samples"], found[0].scores["train_bytes"]) == (3, 16)


def test_tokens_by_their_counts():
    train = Dataset.from_list([{"labels": [2, 1]}, {"labels": [2, 3, 1]}])
    held_out = Dataset.from_list([{"labels": [2, 1]}, {"labels": [0, 1]}])
    # Each plus one: 1, 3, 3, 2 and 1 of 10.
    found = token_reference(train, held_out, vocab_size=5)
    expected = -(3 * math.log(3 / 10) + math.log(1 / 10)) / 4
    assert found.scores == {"loss": pytest.approx(expected), "train_samples": 2}

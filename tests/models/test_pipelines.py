"""transformers' pipelines with the heads, of bytes and of SentencePiece pieces."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from reformer_hf import (
    ReformerHFByteTokenizer,
    ReformerHFForMaskedLM,
    ReformerHFForSequenceClassification,
    ReformerHFForTokenClassification,
    ReformerHFModel,
    ReformerHFTokenizer,
)
from tests.models.tiny import tiny_config

TEXT = "one two one two one two one two one two"


def byte_tokenizer() -> Any:
    return ReformerHFByteTokenizer(mask_token="<mask>")


def sentencepiece_tokenizer() -> Any:
    return ReformerHFTokenizer.train_from_iterator([TEXT] * 4, 20, mask_token="<mask>")


@pytest.fixture(params=[byte_tokenizer, sentencepiece_tokenizer])
def tokenizer(request) -> Any:
    return request.param()


def train(model: Any, steps: int = 60, **batch: Any) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()


def build(model_class: Any, tokenizer: Any, **fields: Any) -> Any:
    torch.manual_seed(0)
    return model_class(tiny_config(vocab_size=len(tokenizer), initializer_range=0.1, **fields))


def save(model: Any, tokenizer: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_fill_mask(tokenizer, tmp_path):
    model = build(ReformerHFForMaskedLM, tokenizer)
    ids = torch.tensor(tokenizer(TEXT).input_ids).repeat(8, 1)
    masked = torch.rand(ids.shape) < 0.2
    inputs = ids.masked_fill(masked, tokenizer.mask_token_id)
    train(model, input_ids=inputs, labels=ids.masked_fill(~masked, -100))
    fill = pipeline("fill-mask", model=save(model, tokenizer, tmp_path))
    assert type(fill.model) is ReformerHFForMaskedLM
    place = len(tokenizer("one two on").input_ids) - 1  # whatever a piece is
    tokens = ids[0].tolist()
    text = tokenizer.decode([*tokens[:place], tokenizer.mask_token_id, *tokens[place + 1 :]])
    assert "<mask>" in text
    best = fill(text)[0]
    assert best["token"] == tokens[place] and best["sequence"] == TEXT


def test_a_mask_token_added_to_a_trained_vocabulary(tmp_path):
    tokenizer = ReformerHFTokenizer.train_from_iterator([TEXT] * 4, 20)
    model = build(ReformerHFForMaskedLM, tokenizer)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    model.resize_token_embeddings(len(tokenizer))
    fill = pipeline("fill-mask", model=save(model, tokenizer, tmp_path))
    assert len(fill("one <mask> one")) == 5


@pytest.mark.parametrize("causal", [False, True])
def test_text_classification_in_batches(causal, tokenizer, tmp_path):
    labels = {"id2label": {0: "ones", 1: "twos"}, "label2id": {"ones": 0, "twos": 1}}
    fields = {"is_decoder": causal, "problem_type": "single_label_classification", **labels}
    model = build(ReformerHFForSequenceClassification, tokenizer, **fields)
    texts = ["one one", "two two two two", "one one one one one", "two"]
    train(
        model,
        **tokenizer(texts, padding=True, return_tensors="pt"),
        labels=torch.tensor([0, 1, 0, 1]),
    )
    classify = pipeline("text-classification", model=save(model, tokenizer, tmp_path))
    assert type(classify.model) is ReformerHFForSequenceClassification
    expected = ["ones", "twos", "ones", "twos"]
    alone = classify(texts)
    assert [answer["label"] for answer in alone] == expected
    for side in ("left", "right"):
        classify.tokenizer.padding_side = side
        together = classify(texts, batch_size=4)
        for one, other in zip(alone, together, strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], rel=1e-5)


def test_scores_of_several_labels_are_independent(tokenizer, tmp_path):
    fields = {"num_labels": 3, "problem_type": "multi_label_classification"}
    model = build(ReformerHFForSequenceClassification, tokenizer, **fields)
    classify = pipeline("text-classification", model=save(model, tokenizer, tmp_path))
    ids = tokenizer("two one", return_tensors="pt")
    expected = model.eval()(**ids).logits.sigmoid()[0].tolist()
    answers = sorted(classify("two one", top_k=None), key=lambda answer: answer["label"])
    assert [answer["score"] for answer in answers] == pytest.approx(expected, rel=1e-5)


def test_token_classification(tokenizer, tmp_path):
    labels = {"id2label": {0: "O", 1: "B-TWO"}, "label2id": {"O": 0, "B-TWO": 1}}
    model = build(ReformerHFForTokenClassification, tokenizer, **labels)
    encoded = tokenizer(TEXT, return_offsets_mapping=True)
    begins = ["t" in TEXT[start:end] for start, end in encoded["offset_mapping"]]
    classes = torch.tensor([begins]).long()
    train(model, input_ids=torch.tensor([encoded.input_ids]), labels=classes)
    tag = pipeline("token-classification", model=save(model, tokenizer, tmp_path))
    assert type(tag.model) is ReformerHFForTokenClassification
    found = tag(TEXT)
    assert [entity["entity"] for entity in found] == ["B-TWO"] * 5
    assert all("t" in TEXT[entity["start"] : entity["end"]] for entity in found)


def test_feature_extraction(tokenizer, tmp_path):
    model = build(ReformerHFModel, tokenizer).eval()
    extract = pipeline("feature-extraction", model=save(model, tokenizer, tmp_path))
    assert type(extract.model) is ReformerHFModel
    ids = tokenizer("one two", return_tensors="pt")
    features = extract("one two", return_tensors=True)
    assert torch.equal(features, model(**ids).last_hidden_state)

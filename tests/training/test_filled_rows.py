"""Predictions in the order of the rows, losses that count each label once."""

from unittest import mock

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, TrainingArguments

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.filled_rows import LabelledRowsTrainer, has_label
from tests.models.heads import HEADS

LENGTHS = [3, 30, 8, 1, 12, 5, 21]


def trainer_of(folder, **fields):
    """Of labels of tokens, in rows of different lengths; of each the first has none."""
    rows = [
        {"input_ids": [5 + i] * n, "attention_mask": [1] * n, "labels": [-100] + [i % 2] * (n - 1)}
        for i, n in enumerate(LENGTHS)
    ]
    return LabelledRowsTrainer(
        HEADS["token classification"].build(),
        TrainingArguments(
            str(folder),
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            per_device_eval_batch_size=2,
            **fields,
        ),
        data_collator=DataCollatorForTokenClassification(
            ReformerHFByteTokenizer(padding_side="right")
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
    )


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_an_evaluation_weights_each_label_the_same_and_keeps_the_order(tmp_path, strategy):
    trainer = trainer_of(tmp_path, train_sampling_strategy=strategy)
    model = trainer.model.eval()
    nats, places = 0.0, sum(LENGTHS) - len(LENGTHS)
    logits = []
    for row in trainer.eval_dataset:
        batch = {name: torch.tensor([values]) for name, values in row.items()}
        with torch.no_grad():
            output = model(**batch, num_items_in_batch=1)
        nats += float(output.loss)
        logits.append(output.logits[0].numpy())
    found = trainer.predict(trainer.eval_dataset)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(nats / places, rel=1e-5)
    assert found.metrics["test_loss"] == pytest.approx(nats / places, rel=1e-5)
    assert len(found.predictions) == len(LENGTHS)
    for row, expected in zip(found.predictions, logits, strict=True):
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-5)


def test_a_step_divides_by_the_labels_that_there_are(tmp_path):
    trainer = trainer_of(tmp_path)
    device = torch.device("cpu")
    count = trainer._get_num_items_in_batch
    batches = [{"labels": torch.tensor([1.5, torch.nan, -100.0])}, {"labels": torch.tensor([0.0])}]
    assert has_label(batches[0]["labels"]).tolist() == [True, False, True]
    assert count(batches, device) == 3
    assert count([{"labels": torch.full((2, 4), -100)}], device) == 1
    assert count([{"input_ids": torch.ones(2, 4)}], device) is None


def test_means_of_each_process_are_refused(tmp_path):
    with (
        mock.patch.object(TrainingArguments, "world_size", 2),
        pytest.raises(ValueError, match="average_tokens_across_devices=False with 2 processes"),
    ):
        trainer_of(tmp_path, average_tokens_across_devices=False)

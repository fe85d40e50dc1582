"""Where a run of the Trainer goes on from, in which order it sees rows, and smoothed labels."""

from itertools import islice

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import BatchRebalanceSampler

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.checkpoints import SEAL, seal
from reformer_hf.training.data.collator import ReformerDataCollator
from reformer_hf.training.trainer import (
    CausalLMTrainer,
    MaskedLMTrainer,
    SealedCheckpoints,
    checkpoint_to_resume,
)
from tests.models.heads import HEADS
from tests.models.tiny import random_ids, tiny_lm


@pytest.fixture
def run(tmp_path):
    """A run with a whole checkpoint and, after it, one that was cut off."""
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / TRAINER_STATE_NAME).write_text("{}")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"):
            torch.save({}, tmp_path / f"checkpoint-{step}" / name)
    seal(tmp_path / "checkpoint-2")
    return tmp_path


def resume(folder, checkpoint, **fields):
    fields = {"do_train": True, "report_to": "none", "use_cpu": True} | fields
    return checkpoint_to_resume(
        TrainingArguments(output_dir=str(folder), resume_from_checkpoint=checkpoint, **fields)
    )


@pytest.mark.parametrize("asked", ["last", "True", "true"])
def test_the_last_whole_one_is_gone_on_from_and_broken_ones_are_deleted(run, asked):
    assert resume(run, asked) == str(run / "checkpoint-2")
    assert not (run / "checkpoint-4").exists()


def test_an_empty_folder_starts_from_nothing(tmp_path):
    assert resume(tmp_path, "last") is None and resume(tmp_path, None) is None


def test_another_run_is_not_overwritten(run):
    with pytest.raises(ValueError, match="holds checkpoint-2 of another run: go on with"):
        resume(run, None)
    assert resume(run, None, do_train=False) is None and resume(run, "last", do_train=False) is None
    assert (run / "checkpoint-4").exists()


def test_a_checkpoint_that_was_changed_is_not_lost(run):
    (run / "checkpoint-2" / "config.json").write_text("{}")  # a file more is no change
    assert resume(run, "last") == str(run / "checkpoint-2")
    (run / "checkpoint-2" / TRAINER_STATE_NAME).write_text("{} and more")
    assert resume(run, "last") is None
    assert {path.name for path in run.iterdir()} == {"_broken-checkpoint-2", "_broken-checkpoint-4"}


def test_a_named_checkpoint_must_be_whole(run):
    assert resume(run, str(run / "checkpoint-2")) == str(run / "checkpoint-2")
    (run / "checkpoint-2" / TRAINER_STATE_NAME).write_text("{} and more")
    with pytest.raises(ValueError, match="there is no whole checkpoint"):
        resume(run, str(run / "checkpoint-2"))
    with pytest.raises(ValueError, match="resume_from_checkpoint=nowhere: there is no whole"):
        resume(run, "nowhere")


def test_what_another_trainer_left_is_not_lost(run):
    (run / "checkpoint-2" / SEAL).unlink()
    assert resume(run, str(run / "checkpoint-2")) == str(run / "checkpoint-2")
    aside = run / "_broken-checkpoint-4"
    assert (aside / TRAINER_STATE_NAME).exists() and not (run / "checkpoint-4").exists()
    assert resume(run, str(aside)) == str(aside)
    assert resume(run, "last") is None
    assert {path.name for path in run.iterdir()} == {aside.name, "_broken-checkpoint-2"}


@pytest.mark.parametrize("unsealed", [2, 4])
def test_what_has_no_seal_beside_a_whole_checkpoint_is_not_lost(run, unsealed):
    seal(run / "checkpoint-4")
    (run / f"checkpoint-{unsealed}" / SEAL).unlink()
    assert resume(run, "last") == str(run / f"checkpoint-{6 - unsealed}")
    assert (run / f"_broken-checkpoint-{unsealed}" / TRAINER_STATE_NAME).exists()


def test_what_was_cut_before_its_state_was_written_is_deleted(run):
    (run / "checkpoint-2" / SEAL).unlink()
    for step in (2, 4):
        (run / f"checkpoint-{step}" / TRAINER_STATE_NAME).unlink()
    assert resume(run, "last") is None and list(run.iterdir()) == []


LENGTHS = [3, 30, 8, 1, 12, 5, 21, 2, 9, 17, 4]


def trainer_of(folder, trainer_class=CausalLMTrainer, model=None, **fields):
    model = tiny_lm(vocab_size=258) if model is None else model
    rows = Dataset.from_dict({"input_ids": [[5 + i] * n for i, n in enumerate(LENGTHS)]})
    return trainer_class(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, **fields
        ),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=ReformerHFByteTokenizer(),
        data_collator=ReformerDataCollator(ReformerHFByteTokenizer()),
    )


def rows_in(loader, limit=50):
    """Numbers of the rows in each batch, without blank ones; an endless loader is cut off."""
    batches = []
    for batch in islice(loader, limit):
        real = (batch["labels"] != -100).any(dim=1)
        batches.append((batch["input_ids"][real, 0] - 5).tolist())
    return batches


@pytest.mark.parametrize("strategy", ["random", "sequential", "group_by_length", "batch_rebalance"])
def test_every_order_of_the_rows_is_kept_and_ends(strategy, tmp_path):
    trainer = trainer_of(
        tmp_path,
        train_sampling_strategy=strategy,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=2,
    )
    rebalanced = isinstance(trainer._get_train_sampler(), BatchRebalanceSampler)
    assert rebalanced == (strategy == "batch_rebalance")
    loader = trainer.get_train_dataloader()
    batches = rows_in(loader)
    every = list(range(len(LENGTHS)))
    order = sum(batches, [])
    assert sorted(order) == every and len(batches) == len(loader) == 6
    assert (order == every) == (strategy == "sequential")
    if strategy in ("random", "group_by_length"):
        loader.set_epoch(1)
        assert sum(rows_in(loader), []) != order
    if strategy == "group_by_length":  # the longest first, steps of rows like it
        step = sum(batches[:2], [])
        assert step[0] == LENGTHS.index(30)
    assert sorted(sum(rows_in(trainer.get_eval_dataloader()), [])) == every
    assert trainer.evaluate()["eval_tokens"] == sum(LENGTHS) - len(LENGTHS)


@pytest.mark.parametrize("trainer_class", [SealedCheckpoints, CausalLMTrainer])
def test_the_last_rows_are_evaluated_and_predicted_whatever_training_drops(tmp_path, trainer_class):
    options = {"dataloader_drop_last": True, "per_device_eval_batch_size": 4}
    options["per_device_train_batch_size"] = 4
    trainer = trainer_of(tmp_path, trainer_class, **options)
    assert len(trainer.get_train_dataloader()) == 2  # of 11 rows
    assert len(trainer.get_eval_dataloader()) == 3
    assert len(trainer.get_test_dataloader(trainer.eval_dataset)) == 3


def test_several_evaluations_have_names(tmp_path):
    rows = Dataset.from_dict({"input_ids": [[5] * 3, [6] * 9]})
    trainer = CausalLMTrainer(
        model=tiny_lm(vocab_size=258),
        args=TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True),
        eval_dataset={"first": rows.select([0]), "all": rows},
        processing_class=ReformerHFByteTokenizer(),
        data_collator=ReformerDataCollator(ReformerHFByteTokenizer()),
    )
    found = trainer.evaluate()
    assert (found["eval_first_tokens"], found["eval_all_tokens"]) == (2, 10)


def smoothed(model, batch, targets):
    """Label smoothing by the book."""
    inputs = {name: value for name, value in batch.items() if "labels" not in name}
    log_probs = model(**inputs).logits.log_softmax(-1)
    nats = 0.0
    for row, place in (targets != -100).nonzero().tolist():
        wanted = log_probs[row, place, targets[row, place]]
        nats -= 0.9 * wanted + 0.1 * log_probs[row, place].mean()
    return nats / int((targets != -100).sum())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # read by PEFT
@pytest.mark.parametrize("kind", ["packed", "left-padded", "given", "plain"])
@pytest.mark.parametrize("adapters", [False, True])
def test_label_smoothing_has_the_targets_of_the_models_loss(kind, adapters, tmp_path):
    model = tiny_lm(vocab_size=258)
    if adapters:
        model = get_peft_model(model, LoraConfig())
    trainer = trainer_of(tmp_path, model=model, label_smoothing_factor=0.1)
    ids = random_ids(2, 12, low=2, high=258)
    batch = {"input_ids": ids, "labels": ids}
    targets = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    if kind == "packed":  # without labels of its own for it
        batch["seq_idx"] = torch.arange(12).expand(2, -1) // 4
        targets[:, 3::4] = -100
    elif kind == "left-padded":
        batch["attention_mask"] = torch.ones_like(ids)
        batch["attention_mask"][1, :5] = 0
        batch["labels"] = ids.masked_fill(batch["attention_mask"] == 0, -100)
        targets[1, :5] = -100
    elif kind == "given":
        targets = batch["shift_labels"] = random_ids(2, 12, seed=3, low=2, high=258)
    model.eval()
    with torch.no_grad():
        expected = smoothed(model, batch, targets)
        assert trainer.compute_loss(model, dict(batch)) == pytest.approx(float(expected), rel=1e-5)
        count = torch.tensor(100)
        scaled = trainer.compute_loss(model, dict(batch), num_items_in_batch=count)
    share = int((targets != -100).sum()) / 100
    assert float(scaled) == pytest.approx(float(expected) * share, rel=1e-5)


def test_a_plain_trainer_smooths_packed_rows_of_our_collator_rightly(tmp_path):
    model = tiny_lm(vocab_size=258)
    trainer = trainer_of(tmp_path, Trainer, model, label_smoothing_factor=0.1)
    ids = random_ids(12, low=2, high=258).tolist()
    rows = [
        {"input_ids": ids, "seq_idx": [0] * 5 + [1] * 7},
        {"input_ids": ids[:4], "seq_idx": [0] * 4},
    ]
    batch = ReformerDataCollator(ReformerHFByteTokenizer())(rows)
    targets = torch.full((2, 12), -100)
    targets[0, :11] = torch.tensor(ids[1:])
    targets[0, 4] = -100
    targets[1, :3] = torch.tensor(ids[1:4])
    with torch.no_grad():
        expected = smoothed(model.eval(), batch, targets)
        assert trainer.compute_loss(model, dict(batch)) == pytest.approx(float(expected), rel=1e-5)


def test_label_smoothing_of_masked_models_shifts_nothing(tmp_path):
    model = HEADS["masked language model"].build()
    trainer = trainer_of(tmp_path, MaskedLMTrainer, model, label_smoothing_factor=0.1)
    ids = random_ids(2, 12)
    batch = {"input_ids": ids, "labels": ids.masked_fill(torch.arange(12) % 3 > 0, -100)}
    with torch.no_grad():
        expected = smoothed(model.eval(), batch, batch["labels"])
        assert trainer.compute_loss(model, dict(batch)) == pytest.approx(float(expected), rel=1e-5)


def test_metrics_that_nothing_computes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="compute_metrics: a CausalLMTrainer keeps no predictions"):
        CausalLMTrainer(
            model=tiny_lm(), args=TrainingArguments(output_dir=str(tmp_path)), compute_metrics=len
        )


def test_inputs_that_no_metric_gets_are_refused(tmp_path):
    arguments = TrainingArguments(str(tmp_path), include_for_metrics=["inputs"], use_cpu=True)
    with pytest.raises(ValueError, match="include_for_metrics=.* has no effect with CausalLMTr"):
        CausalLMTrainer(model=tiny_lm(), args=arguments)


def test_a_metric_that_is_not_there_is_one_readable_line(tmp_path):
    best = {"metric_for_best_model": "accuracy", "use_cpu": True}
    trainer = SealedCheckpoints(tiny_lm(), TrainingArguments(str(tmp_path), **best))
    with pytest.raises(ValueError, match="^metric_for_best_model='accuracy': .*'eval_loss'"):
        trainer._determine_best_metric({"eval_loss": 1.0}, None)


def test_the_trainers_own_card_names_no_base_model_where_there_is_none(tmp_path):
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    trainer = SealedCheckpoints(tiny_lm(), arguments)
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "[](" not in card and "trained from scratch" in card

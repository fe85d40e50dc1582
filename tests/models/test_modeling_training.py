"""Training: Trainer, accumulation, reproducibility, adapters."""

import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments, set_seed

from reformer_hf import ReformerHFForCausalLM
from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.nn.reversible import Decision
from tests.models.tiny import dropout_fields, gradients, random_ids, tiny_lm

TOKENIZER = ReformerHFByteTokenizer()
TEXTS = ["abc", "the cat sat on the mat, ", "to be or not to be", "a" * 60, "one, two", "12345678"]
# On the right: Trainer counts a label for the first token behind padding, which has no loss.
TOKENIZER.padding_side = "right"
COLLATOR = DataCollatorForLanguageModeling(TOKENIZER, mlm=False)


def byte_lm(**fields) -> ReformerHFForCausalLM:
    defaults = {"vocab_size": TOKENIZER.vocab_size, "initializer_range": 0.1}
    return tiny_lm(**{**defaults, **fields})


def trainer_of(model: nn.Module, folder: Path, **arguments) -> Trainer:
    """A Trainer with default arguments but for a few steps on the CPU."""
    defaults = {"max_steps": 4, "logging_steps": 1, "save_strategy": "no", "use_cpu": True}
    rows = [{"input_ids": TOKENIZER(text).input_ids} for text in TEXTS]
    return Trainer(
        model,
        TrainingArguments(str(folder), disable_tqdm=True, **{**defaults, **arguments}),
        train_dataset=rows,
        eval_dataset=rows[:3],
        data_collator=COLLATOR,
    )


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("chunk_size", [0, 16])
def test_the_trainer_learns_from_rows_of_any_length(chunk_size, tmp_path):
    model = byte_lm(chunk_size_lm_head=chunk_size, **dropout_fields(0.05))
    trainer = trainer_of(
        model, tmp_path, max_steps=20, learning_rate=0.05, lr_scheduler_type="constant"
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert math.log(258) - 1 < before and after < 0.6 * before
    assert losses(trainer)[-1] < 0.6 * losses(trainer)[0]


def test_evaluation_reports_the_loss_of_all_labels_and_keeps_the_logits(tmp_path):
    model = byte_lm()
    trainer = trainer_of(model, tmp_path, per_device_eval_batch_size=3)
    batch = COLLATOR(list(trainer.eval_dataset))
    expected = model(**batch)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    predictions = trainer.predict(trainer.eval_dataset)
    assert_close(torch.tensor(predictions.predictions), expected.logits)
    assert predictions.label_ids.tolist() == batch["labels"].tolist()


@pytest.mark.parametrize("chunk_size", [0, 16])
def test_accumulated_gradients_equal_those_of_the_whole_batch(chunk_size, tmp_path):
    weights = []
    for size, steps in ((6, 1), (2, 3)):
        model = byte_lm(chunk_size_lm_head=chunk_size, redraw_rotations=False)
        trainer = trainer_of(
            model,
            tmp_path,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        trainer.train()
        weights.append({name: p.detach() for name, p in model.named_parameters()})
    start = dict(byte_lm().named_parameters())
    for name, whole in weights[0].items():
        assert not torch.equal(whole, start[name])
        assert_close(weights[1][name], whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", [{"bf16": True}, {"activation_checkpointing": True}])
def test_options_of_the_trainer_run(option, tmp_path):
    trainer = trainer_of(byte_lm(**dropout_fields()), tmp_path, **option)
    trainer.train()
    assert all(math.isfinite(loss) for loss in losses(trainer)) and len(losses(trainer)) == 4


def test_training_repeats_with_the_seed_and_resumes_where_it_stopped(tmp_path):
    fields = {"per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2}
    runs = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        set_seed(seed)
        model = byte_lm(**dropout_fields())
        trainer = trainer_of(model, tmp_path / folder, seed=seed, **fields)
        trainer.train()
        runs.append(losses(trainer))
    assert runs[0] == runs[1] != runs[2]
    resumed = trainer_of(byte_lm(seed=9, **dropout_fields()), tmp_path / "a", seed=1, **fields)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert losses(resumed)[-2:] == runs[0][-2:]


def buckets_of(model: ReformerHFForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    decisions = [Decision() for _ in model.reformer.encoder.layers]
    model(ids, hash_decisions=decisions)
    return decisions[1].recall(lambda: pytest.fail("nothing was decided"))


def test_rotations_are_redrawn_in_training_only_and_follow_the_seeds():
    ids = random_ids(2, 30)
    model = tiny_lm()
    evaluated = buckets_of(model, ids)
    assert torch.equal(buckets_of(model, ids), evaluated)
    model.train()
    torch.manual_seed(3)
    first, second = buckets_of(model, ids), buckets_of(model, ids)
    assert not torch.equal(first, second) and not torch.equal(first, evaluated)
    torch.manual_seed(3)
    assert torch.equal(buckets_of(model, ids), first)
    assert not torch.equal(buckets_of(tiny_lm(hash_seed=1), ids), evaluated)
    assert torch.equal(buckets_of(tiny_lm(hash_seed=0), ids), evaluated)
    fixed = tiny_lm(redraw_rotations=False).train()
    assert torch.equal(buckets_of(fixed, ids), evaluated)


def test_a_training_pass_draws_one_number_where_it_hashes_and_none_elsewhere():
    ids = random_ids(2, 30)
    for fields, drawn in (
        ({}, 1),
        ({"redraw_rotations": False}, 0),
        ({"attn_layers": ["local", "full"]}, 0),
    ):
        model = tiny_lm(**fields).train()
        torch.manual_seed(3)
        model(ids)
        state = torch.get_rng_state()
        torch.manual_seed(3)
        for _ in range(drawn):
            torch.randint(2**63 - 1, ())
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # read by PEFT
@pytest.mark.parametrize("targets", [["query_key", "value"], "all-linear"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_adapters_on_a_frozen_base_get_right_gradients(targets, dropout):
    found = []
    ids = random_ids(2, 21)
    for reversible in (True, False):
        base = tiny_lm(
            reversible=reversible, attn_layers=["lsh", "local", "lsh"], **dropout_fields(dropout)
        )
        options = {"init_lora_weights": False, "lora_dropout": dropout, "task_type": "CAUSAL_LM"}
        torch.manual_seed(1)
        model = get_peft_model(base, LoraConfig(r=2, target_modules=targets, **options))
        model.double().train()
        torch.manual_seed(7)
        model(input_ids=ids, labels=ids).loss.backward()
        found.append(gradients(model))
        trainable = {name for name, p in model.named_parameters() if p.requires_grad}
        assert found[-1].keys() == trainable
        assert all("lora" in name for name in trainable)
    assert len(found[0]) >= 10
    for name, gradient in found[1].items():
        assert gradient.any()
        assert_close(found[0][name], gradient, rtol=1e-7, atol=1e-11)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # read by PEFT
@pytest.mark.parametrize("adapters", [False, True])
def test_label_smoothing_asks_for_the_next_token(tmp_path, adapters):
    model: nn.Module = byte_lm(chunk_size_lm_head=7)
    if adapters:
        model = get_peft_model(model, LoraConfig())  # type: ignore[arg-type]
    trainer = trainer_of(model, tmp_path, label_smoothing_factor=0.1)
    batch = COLLATOR([trainer.train_dataset[0], trainer.train_dataset[2]])
    logits = model.eval()(input_ids=batch["input_ids"]).logits[:, :-1].detach()
    targets = batch["labels"][:, 1:]
    expected = nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1
    )
    assert_close(trainer.compute_loss(model, dict(batch)).detach(), expected)

"""Seq2SeqTrainer: label smoothing, evaluation by generation, both padding sides."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    pipeline,
)

from reformer_hf import ReformerHFByteTokenizer, ReformerHFForConditionalGeneration
from tests.models.seq2seq import FORMS, tiny_seq2seq
from tests.models.tiny import dropout_fields

PAIRS = [("one", "eins"), ("two and more", "zwei"), ("three", "drei und viel mehr"), ("", "vier")]


def byte_model(**fields: Any) -> ReformerHFForConditionalGeneration:
    return tiny_seq2seq(vocab_size=258, **fields)


def examples(tokenizer: ReformerHFByteTokenizer) -> list[dict]:
    return [dict(tokenizer(source, text_target=target)) for source, target in PAIRS]


def trainer_of(
    model: ReformerHFForConditionalGeneration, folder: Path, padding_side: str = "right", **options
) -> Seq2SeqTrainer:
    tokenizer = ReformerHFByteTokenizer(padding_side=padding_side)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder),
        per_device_eval_batch_size=4,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **{"per_device_train_batch_size": 2, **options},
    )
    return Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=examples(tokenizer),
        eval_dataset=examples(tokenizer),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_run_with_label_smoothing_and_generation(form, tmp_path):
    model = byte_model(decoder_form=form, **dropout_fields(0.1))
    seen: list[np.ndarray] = []

    def exact(prediction) -> dict[str, float]:
        seen.append(prediction.predictions)
        return {"rows": len(prediction.predictions)}

    trainer = trainer_of(
        model,
        tmp_path,
        label_smoothing_factor=0.1,
        predict_with_generate=True,
        generation_max_length=9,
        generation_num_beams=2,
        max_steps=6,
        learning_rate=1e-2,
        logging_steps=1,
        gradient_accumulation_steps=2,
    )
    trainer.compute_metrics = exact
    before = trainer.evaluate()
    trainer.train()
    assert sum("loss" in log for log in trainer.state.log_history) == 6
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert after["eval_rows"] == 4
    assert (seen[1][:, 0] == 2).all()
    assert np.isin(seen[1][:, 9:], (-100, 0)).all()  # Trainer's own padding
    trainer.save_model(str(tmp_path / "saved"))
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved")
    assert isinstance(again, ReformerHFForConditionalGeneration)
    batch = trainer.data_collator(examples(ReformerHFByteTokenizer()))
    assert torch.equal(again(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_what_the_definition_says(smoothing, tmp_path):
    """On either padding side: cross-entropy with the true token and, in part, with all."""
    losses = []
    for side in ("right", "left"):
        model = byte_model()
        trainer = trainer_of(model, tmp_path, side, label_smoothing_factor=smoothing)
        batch = trainer.data_collator(examples(trainer.processing_class))  # type: ignore[arg-type]
        assert (batch["labels"][0, 0 if side == "left" else -1] == -100).all()
        losses.append(trainer.evaluate()["eval_loss"])
        with torch.no_grad():
            logits = model(**batch).logits
        real = batch["labels"] != -100
        expected = torch.nn.functional.cross_entropy(
            logits[real], batch["labels"][real], label_smoothing=smoothing
        )
        assert_close(losses[-1], expected.item(), rtol=1e-4, atol=1e-5)
    assert_close(*losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_accumulation_counts_all_labels(smoothing, tmp_path):
    """Two batches of two rows step as one batch of four, though they have unlike many labels."""
    weights = []
    for size, accumulated in ((4, 1), (2, 2)):
        model = byte_model(redraw_rotations=False)
        before = model.lm_head.bias.detach().clone()
        trainer_of(
            model,
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            label_smoothing_factor=smoothing,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,  # clipping would make them alike
        ).train()
        weights.append(model.lm_head.bias.detach() - before)
    assert weights[0].abs().max() > 1e-3
    assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_labels_taken_away_without_inputs_for_the_decoder(tmp_path):
    trainer = trainer_of(byte_model(), tmp_path, label_smoothing_factor=0.1, max_steps=1)
    trainer.data_collator.model = None  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"DataCollatorForSeq2Seq\(tokenizer, model=model\)"):
        trainer.train()


def test_text_to_text_without_a_pipeline():
    """transformers 5 has no pipeline for it any more: tokenise, generate, decode."""
    model, tokenizer = byte_model(), ReformerHFByteTokenizer()
    for task in ("text2text-generation", "translation", "summarization"):
        with pytest.raises(KeyError):
            pipeline(task, model=model, tokenizer=tokenizer)
    inputs = tokenizer([source for source, _ in PAIRS], return_tensors="pt", padding=True)
    written = model.generate(**inputs, num_beams=2, max_new_tokens=5)
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    assert len(texts) == 4 and all(isinstance(text, str) for text in texts)

"""What a Trainer saves takes texts beyond the model's length, as pipelines cut them."""

import pytest
from transformers import AutoTokenizer, TrainingArguments, pipeline

from reformer_hf import (
    ReformerHFByteTokenizer,
    ReformerHFForCausalLM,
    ReformerHFForMaskedLM,
    ReformerHFForQuestionAnswering,
    ReformerHFForSequenceClassification,
    ReformerHFForTokenClassification,
)
from reformer_hf.training.arguments import PretrainedModelArguments
from reformer_hf.training.build import build_model, limit_length
from reformer_hf.training.trainer import SealedCheckpoints
from tests.training.runs import tiny_overrides

LONG = "All that is written here goes on for long. " * 9
KINDS = {
    "text-classification": ReformerHFForSequenceClassification,
    "token-classification": ReformerHFForTokenClassification,
    "fill-mask": ReformerHFForMaskedLM,
    "text-generation": ReformerHFForCausalLM,
    "question-answering": ReformerHFForQuestionAnswering,
}


def save(task, folder, **fields):
    tokenizer = ReformerHFByteTokenizer(mask_token="<mask>")
    arguments = PretrainedModelArguments(config_overrides=tiny_overrides(**fields))
    is_causal = task == "text-generation"
    model = build_model(KINDS[task], arguments, tokenizer, 128, {"is_decoder": is_causal})
    training = TrainingArguments(str(folder), report_to="none", use_cpu=True)
    SealedCheckpoints(model, training, processing_class=tokenizer).save_model()
    return model, tokenizer


@pytest.mark.parametrize("task", KINDS)
def test_a_text_beyond_the_limit_is_cut(task, tmp_path):
    save(task, tmp_path)
    if task == "question-answering":  # which has no pipeline any more
        model, tokenizer = (
            KINDS[task].from_pretrained(tmp_path),
            AutoTokenizer.from_pretrained(tmp_path),
        )
        cut = tokenizer("what?", LONG, truncation="only_second", return_tensors="pt")
        assert model(**cut).start_logits.shape == (1, 128)
        return
    run = pipeline(task, model=str(tmp_path))
    assert run.tokenizer.model_max_length == 128
    if task == "text-classification":
        assert 0 < run(LONG, truncation=True)[0]["score"] <= 1
    elif task == "token-classification":
        assert run(LONG)[-1]["end"] <= 128
    elif task == "fill-mask":
        cut = {"truncation": True}
        assert len(run(f"a<mask>{LONG}", tokenizer_kwargs=cut)) == 5
    else:
        (found,) = run(LONG[:100], max_new_tokens=5, return_full_text=False)
        assert isinstance(found["generated_text"], str)
        with pytest.raises(ValueError, match="128"):
            run(LONG, max_new_tokens=5)


def test_without_a_limit_there_is_none(tmp_path):
    save("text-generation", tmp_path, position_embedding_type="none")
    unlimited = ReformerHFByteTokenizer().model_max_length
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == unlimited


def test_adapters_and_what_is_no_tokenizer(tmp_path):
    model, tokenizer = save("text-generation", tmp_path)
    tokenizer.model_max_length = 7
    limit_length(tokenizer, None)
    limit_length(None, model)
    assert tokenizer.model_max_length == 7
    limit_length(tokenizer, model)
    assert tokenizer.model_max_length == 128

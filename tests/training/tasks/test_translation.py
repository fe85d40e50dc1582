"""A model that translates: its vocabulary, its configuration, its score."""

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import GenerationConfig, PreTrainedTokenizerFast

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.data.pairs import TranslationArguments
from reformer_hf.training.tasks.translation import (
    TranslationModelArguments,
    TranslationTrainingArguments,
    build_translator,
    make_trainer,
    open_tokenizer,
    train_translation,
)
from tests.models.seq2seq import tiny_seq2seq

TEXTS = [
    text.format(index)
    for index in range(300)
    for text in ("The file number {} cannot be opened.", "Die Datei {} ist nicht zu öffnen.")
]


def test_the_vocabulary_is_trained_once(tmp_path):
    pairs = datasets.Dataset.from_list([{"source": text, "target": text.upper()} for text in TEXTS])
    arguments = TranslationModelArguments(vocab_size=400)
    first = open_tokenizer(arguments, pairs, tmp_path)
    again = open_tokenizer(arguments, None, tmp_path)
    assert first.get_vocab() == again.get_vocab() and again.padding_side == "right"
    byte = open_tokenizer(TranslationModelArguments(tokenizer_name="bytes"), None, tmp_path)
    assert isinstance(byte, ReformerHFByteTokenizer)
    first.save_pretrained(tmp_path / "saved")
    named = TranslationModelArguments(tokenizer_name=str(tmp_path / "saved"))
    assert open_tokenizer(named, None, tmp_path).get_vocab() == first.get_vocab()
    with pytest.raises(ValueError, match="tokenizer_name=None: without training data"):
        open_tokenizer(arguments, None, tmp_path / "empty")


@pytest.mark.parametrize(("form", "positions"), [("cross_attention", 100), ("packed", 200)])
def test_positions_cover_the_longest_row(form, positions):
    overrides = f"decoder_form={form},encoder_layers=1,decoder_attn_layers=[local,lsh]"
    arguments = TranslationModelArguments(config_overrides=overrides)
    config = build_translator(arguments, ReformerHFByteTokenizer(), 100).config
    assert config.position_limit == positions
    assert (config.encoder_attn_layers, config.decoder_attn_layers) == (["full"], ["local", "lsh"])
    assert config.decoder_start_token_id == config.pad_token_id == 0


@pytest.mark.parametrize("token", ["eos_token", "pad_token"])
def test_a_tokenizer_that_lacks_a_token_is_named(tmp_path, token):
    tokens = {"eos_token": "</s>", "pad_token": "<pad>"}
    del tokens[token]
    backend = Tokenizer(
        BPE({"a": 0, **{name: i + 1 for i, name in enumerate(tokens.values())}}, [])
    )
    PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(tmp_path)
    arguments = TranslationModelArguments(tokenizer_name=str(tmp_path))
    with pytest.raises(ValueError, match=f"tokenizer_name=.*: has no {token}, which"):
        open_tokenizer(arguments, None, tmp_path)


def test_names_of_special_tokens_in_a_text_stay_text(tmp_path):
    pairs = datasets.Dataset.from_list([{"source": text, "target": text} for text in TEXTS])
    for train in (pairs, None):  # trained, and opened again
        tokenizer = open_tokenizer(TranslationModelArguments(vocab_size=400), train, tmp_path)
        ids = tokenizer("a </s> <unk>").input_ids
        assert not {0, 1, 2} & set(ids) and tokenizer.decode(ids) == "a </s> <unk>"


def translation_arguments(folder, **changes):
    return TranslationTrainingArguments(
        str(folder), predict_with_generate=True, report_to="none", use_cpu=True, **changes
    )


@pytest.mark.parametrize(
    ("data", "training", "expected"),
    [
        ({}, {}, {"max_length": 9, "num_beams": 1}),
        ({"num_beams": 3}, {"generation_num_beams": 2}, {"max_length": 9, "num_beams": 3}),
        ({}, {"generation_num_beams": 2}, {"max_length": 9, "num_beams": 2}),
        ({"val_max_target_length": 7}, {}, {"max_length": 7, "num_beams": 1}),
        ({}, {"generation_max_length": 5}, {"max_length": 5, "num_beams": 1}),
        (
            {"length_penalty": 4.0, "num_beams": 4},
            {},
            {"max_length": 9, "num_beams": 4, "length_penalty": 4.0},
        ),
    ],
)
def test_the_trainer_generates_as_the_arguments_say(tmp_path, data, training, expected):
    tokenizer = ReformerHFByteTokenizer(padding_side="right")
    model = tiny_seq2seq(vocab_size=258, redraw_rotations=False)
    model.generation_config.length_penalty = 0.5  # the checkpoint's own
    torch.nn.init.normal_(model.lm_head.decoder.weight)
    named = {"source_lang": "a", "target_lang": "b", "train_file": "a.tsv", "max_target_length": 9}
    rows = [{"input_ids": [10, 11, 1], "labels": [12, 1]}, {"input_ids": [13, 1], "labels": [1]}]
    trainer = make_trainer(
        model,
        tokenizer,
        TranslationArguments(**{**named, **data}),
        translation_arguments(tmp_path, **training),
        {"test": rows},
    )
    assert model.generation_config.length_penalty == expected.get("length_penalty", 0.5)
    written = trainer.predict(rows).predictions
    batch = {"input_ids": [[10, 11, 1], [13, 1, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]]}
    direct = model.generate(
        **{name: torch.tensor(values) for name, values in batch.items()},
        **{"length_penalty": 0.5, **expected},
    ).numpy()
    assert (written[:, : direct.shape[1]] == direct).all()
    assert np.isin(written[:, direct.shape[1] :], (0, -100)).all()


def test_a_length_penalty_is_saved_with_its_beams(tmp_path):
    named = {"source_lang": "a", "target_lang": "b", "train_file": "a.tsv", "length_penalty": 0.6}
    tokenizer = ReformerHFByteTokenizer(padding_side="right")
    rest = (translation_arguments(tmp_path), {})
    with pytest.raises(ValueError, match="length_penalty=0.6: only beams"):
        make_trainer(tiny_seq2seq(vocab_size=258), tokenizer, TranslationArguments(**named), *rest)
    model, data = tiny_seq2seq(vocab_size=258), TranslationArguments(**named, num_beams=4)
    make_trainer(model, tokenizer, data, *rest).save_model(str(tmp_path / "saved"))
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (saved.length_penalty, saved.num_beams) == (0.6, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generation_max_length": 1}, "generation_max_length=1"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics=True: the metrics here"),
        ({"generation_max_length": 30}, "max_target_length=30: the model has 20 positions"),
    ],
)
def test_impossible_options_are_named_before_training(tmp_path, changes, message):
    (tmp_path / "a.tsv").write_text("en\tde\n" + "file\tDatei\n" * 9)
    sizes = "hidden_size=16,num_attention_heads=2,num_hidden_layers=1,max_position_embeddings=20"
    data = TranslationArguments(
        source_lang="en",
        target_lang="de",
        train_file=str(tmp_path / "a.tsv"),
        max_source_length=8,
        max_target_length=8,
    )
    model = TranslationModelArguments(tokenizer_name="bytes", config_overrides=sizes)
    training = translation_arguments(tmp_path / "run", do_train=True, **changes)
    with pytest.raises(ValueError, match=message):
        train_translation(model, data, training)


@pytest.mark.parametrize(
    ("changes", "message"),
    [("hidden_sizes=10", "no field .hidden_sizes."), ("encoder_attn_layers=[lstm]", "lstm")],
)
def test_impossible_models_are_named(changes, message):
    arguments = TranslationModelArguments(config_overrides=changes)
    with pytest.raises(ValueError, match=message):
        build_translator(arguments, ReformerHFByteTokenizer(), 100)

"""An encoder-decoder that translates: its vocabulary, its configuration, its run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainingArguments,
    Trainer,
    set_seed,
)

from reformer_hf.models.modeling_encoder_decoder import ReformerHFForConditionalGeneration
from reformer_hf.training.argument_checks import check_predictions
from reformer_hf.training.arguments import (
    PretrainedModelArguments,
    ReformerTrainingArguments,
    argument,
)
from reformer_hf.training.bleu import bleu_metrics, corpus_bleu, decode
from reformer_hf.training.build import build_model, load_tokenizer, parse_overrides
from reformer_hf.training.checkpoints import run_settings
from reformer_hf.training.data.pairs import (
    TranslationArguments,
    load_pairs,
    tokenize_pairs,
)
from reformer_hf.training.data.sources import check_splits, wanted_splits
from reformer_hf.training.data.vocabulary import open_sentencepiece, train_sentencepiece
from reformer_hf.training.pair_baselines import pair_references, token_reference
from reformer_hf.training.processes import hide_bars_unless
from reformer_hf.training.record import describe_data
from reformer_hf.training.references import Reference, keep_references
from reformer_hf.training.tasks.translation_trainer import TranslationTrainer
from reformer_hf.training.trainer import (
    checkpoint_to_resume,
    keep_metrics,
    run_callbacks,
    run_trainer,
)

VOCABULARY = "spiece.model"
LAYERS = 4
"""Of the encoder and of the decoder of a new model, where the arguments do not say otherwise."""


@dataclass
class TranslationModelArguments(PretrainedModelArguments):
    """A model to go on with, or the fields of a new one."""

    tokenizer_name: str | None = argument(
        None,
        "Tokenizer, if it is not the model's; 'bytes' for ReformerHFByteTokenizer. A new model "
        "gets a SentencePiece vocabulary trained on the data.",
    )
    vocab_size: int = argument(8000, "Pieces of a new SentencePiece vocabulary.")


@dataclass
class TranslationTrainingArguments(ReformerTrainingArguments, Seq2SeqTrainingArguments):
    """transformers' `Seq2SeqTrainingArguments`, in a group of their own in the help."""

    save_total_limit: int | None = argument(2, "Checkpoints that are kept.")


def train_translation(
    model_arguments: TranslationModelArguments,
    data_arguments: TranslationArguments,
    training_arguments: Seq2SeqTrainingArguments,
    prepare: Callable[[Trainer], None] = lambda trainer: None,
) -> dict[str, Any]:
    """Train, evaluate, predict and save, as far as the arguments say.

    The output folder gets the model, `train_results.json`, `eval_results.json`,
    `predict_results.json`, `all_results.json`, `trainer_state.json`, `run_record.json`, a model
    card and, with `predict_with_generate`, `generated_predictions.txt`.

    Args:
        model_arguments: which model.
        data_arguments: which pairs.
        training_arguments: how.
        prepare: is called with the Trainer before it runs; `use_run_card` of `reformer_hf.hub`
            makes the card ours.

    Returns:
        The content of `all_results.json`.

    Raises:
        FloatingPointError: if training diverges.
        OSError: if something cannot be found or the disk is full.
        ValueError: if arguments, data and model do not fit together.
    """
    doing, folder = training_arguments, Path(str(training_arguments.output_dir))
    wanted = wanted_splits(doing)
    _check(doing, model_arguments)
    hide_bars_unless(doing.local_process_index == 0)
    settings = run_settings(model_arguments, data_arguments.settings(), doing.seed)
    checkpoint = checkpoint_to_resume(doing, settings)
    # The other processes wait for the first, and then find the vocabulary and the tokens.
    with doing.main_process_first(local=False, desc="preparing the data"):
        pairs = load_pairs(data_arguments, model_arguments.cache_dir, model_arguments.token)
        check_splits(wanted, pairs)
        begins = checkpoint is None and doing.process_index == 0
        if begins and _tokenizer_name(model_arguments) is None:
            (folder / VOCABULARY).unlink(missing_ok=True)  # that of another run
        tokenizer = open_tokenizer(model_arguments, pairs.get("train"), folder)
        tokens: dict[str, Any] = {
            split: tokenize_pairs(pairs[split], tokenizer, data_arguments, split)
            for split in wanted
        }
    set_seed(doing.seed)
    longest = max(data_arguments.longest, doing.generation_max_length or 0)
    model = build_translator(model_arguments, tokenizer, longest)
    trainer = make_trainer(model, tokenizer, data_arguments, doing, tokens)
    prepare(trainer)

    def count(split: str) -> dict[str, Any]:
        rows = {"train": "train", "eval": "validation", "predict": "test"}[split]
        return {f"{split}_samples": len(tokens[rows])}

    def predict() -> dict[str, Any]:
        if "test" not in tokens:
            return {}
        output: Any = trainer.predict(tokens["test"], metric_key_prefix="predict")
        if doing.predict_with_generate and trainer.is_world_process_zero():
            lines = [f"{text}\n" for text in decode(tokenizer, output.predictions)]
            (folder / "generated_predictions.txt").write_text("".join(lines), encoding="utf-8")
        return keep_metrics(trainer, "predict", output.metrics | count("predict"))

    def compare(metrics: dict[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        if data_arguments.baselines and doing.do_train and trainer.is_world_process_zero():
            references = _references(trainer, data_arguments, pairs, tokens)
            deciding = "bleu" if doing.predict_with_generate else "loss"
            kept = keep_references(trainer, metrics, references, deciding)
        trainer.accelerator.wait_for_everyone()
        return kept

    return run_trainer(trainer, checkpoint, count, finish=predict, compare=compare)


def _references(
    trainer: Trainer,
    data: TranslationArguments,
    pairs: dict[str, datasets.Dataset],
    tokens: dict[str, datasets.Dataset],
) -> list[Reference]:
    """Methods without a model, for the metrics that the evaluation has."""
    references: list[Reference] = []
    tokenizer: Any = trainer.processing_class
    train, held_out = (tokens[split] for split in ("train", "validation"))
    if not trainer.args.label_smoothing_factor:  # which is in the loss of an evaluation, too
        references.append(token_reference(train, held_out, len(tokenizer)))
    if trainer.args.predict_with_generate:  # type: ignore[attr-defined]
        sources = [text[len(data.source_prefix) :] for text in pairs["validation"]["source"]]
        targets = decode(tokenizer, held_out["labels"])

        def score(translations: list[str], targets: list[str]) -> dict[str, float]:
            return {"bleu": corpus_bleu(translations, targets)["bleu"]}

        references += pair_references(score, pairs["train"], sources, targets)
    return references


def _check(training: Seq2SeqTrainingArguments, model: TranslationModelArguments) -> None:
    if not training.do_train and model.model_name_or_path is None:
        raise ValueError("model_name_or_path=None without do_train: name the model to evaluate")
    if training.generation_max_length is not None and training.generation_max_length < 2:
        raise ValueError(f"generation_max_length={training.generation_max_length}: at least 2")
    check_predictions(training)


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TranslationArguments,
    training: Seq2SeqTrainingArguments,
    tokens: dict[str, Any],
) -> TranslationTrainer:
    """Have the Trainer generate as the data's arguments say.

    Raises:
        ValueError: for a length penalty without beams.
    """
    training.generation_max_length = training.generation_max_length or data.val_max_target_length
    training.generation_num_beams = data.num_beams or training.generation_num_beams or 1
    if data.length_penalty not in (None, 1.0) and training.generation_num_beams == 1:
        raise ValueError(
            f"length_penalty={data.length_penalty}: only beams are scored with it; give num_beams "
            "above 1, or leave it out"
        )
    trainer = TranslationTrainer(
        model,
        training,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        train_dataset=tokens.get("train"),
        eval_dataset=tokens.get("validation"),
        processing_class=tokenizer,
        compute_metrics=bleu_metrics(tokenizer) if training.predict_with_generate else None,
        callbacks=run_callbacks(training, **describe_data(data)),
    )
    if data.length_penalty is not None:  # also where the argument generation_config names a file
        generation: Any = model.generation_config
        generation.length_penalty = data.length_penalty
        generation.num_beams = training.generation_num_beams  # or transformers would not save it
    return trainer


def build_translator(
    arguments: TranslationModelArguments, tokenizer: PreTrainedTokenizerBase, longest: int
) -> PreTrainedModel:
    """Load the named model, or make one with random weights.

    Args:
        arguments: which model.
        tokenizer: its vocabulary.
        longest: tokens of the longest source or target.

    Raises:
        OSError: if there is no such model.
        ValueError: if it has fewer positions, or a field of a new one does not fit.
    """
    if arguments.model_name_or_path is None:
        fields = _new_fields(arguments, tokenizer, longest)
        model = build_model(ReformerHFForConditionalGeneration, arguments, tokenizer, **fields)
    else:
        model = build_model(AutoModelForSeq2SeqLM, arguments, tokenizer)
    limit = getattr(model.config, "position_limit", None)
    if limit is not None and longest > limit:
        raise ValueError(
            f"max_source_length or max_target_length={longest}: the model has {limit} positions; "
            "choose smaller ones, generation_max_length included"
        )
    return model


def _new_fields(
    arguments: TranslationModelArguments, tokenizer: PreTrainedTokenizerBase, longest: int
) -> dict[str, Any]:
    """Fields of a new model's configuration, where the arguments do not say otherwise."""
    given = parse_overrides(arguments.config_overrides) if arguments.config_overrides else {}
    layers = {
        f"{side}_attn_layers": ["full"]
        * given.get(f"{side}_layers", given.get("num_hidden_layers", LAYERS))
        for side in ("encoder", "decoder")
    }
    return {
        "is_encoder_decoder": True,
        **layers,
        **special_tokens(tokenizer),
        "hidden_size": 256,
        "num_attention_heads": 4,
        "feed_forward_size": 1024,
        "max_position_embeddings": longest * (2 if given.get("decoder_form") == "packed" else 1),
        "hidden_dropout_prob": 0.1,
        "local_attention_probs_dropout_prob": 0.1,
        "lsh_attention_probs_dropout_prob": 0.1,
        "chunk_size_lm_head": 0,  # label smoothing needs the logits
    }


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Fields of a configuration that name special tokens: the pad token starts a target."""
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }


def _tokenizer_name(arguments: PretrainedModelArguments) -> str | None:
    return arguments.tokenizer_name or arguments.model_name_or_path


def open_tokenizer(
    arguments: TranslationModelArguments, train: datasets.Dataset | None, folder: Path
) -> PreTrainedTokenizerBase:
    """Load the tokenizer that is named, or train one on the data, once.

    Args:
        arguments: which.
        train: pairs of `load_pairs`.
        folder: for a trained vocabulary.
    """
    name, path = _tokenizer_name(arguments), folder / VOCABULARY
    if name is not None:
        tokenizer: Any = load_tokenizer(arguments)
    elif path.exists():
        tokenizer = open_sentencepiece(path)
    elif train is None:
        raise ValueError("tokenizer_name=None: without training data, name a tokenizer or a model")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        texts = (text for pair in train for text in (pair["source"], pair["target"]))  # type: ignore[index]
        tokenizer = train_sentencepiece(texts, arguments.vocab_size, path)
    for token, use in (("eos_token", "ends a target"), ("pad_token", "fills and begins targets")):
        if getattr(tokenizer, token) is None:
            raise ValueError(f"tokenizer_name={name!r}: has no {token}, which {use}; add one")
    tokenizer.padding_side = "right"  # so that the start token begins each target
    return tokenizer

"""The arguments of translation, with the names of transformers' `run_translation.py`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

BYTES = "bytes"
"""`tokenizer_name` of the byte tokenizer."""


def _argument(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass
class TranslationArguments:
    source_lang: str | None = _argument(None, "Language of the source, as the data names it.")
    target_lang: str | None = _argument(None, "Language of the target, as the data names it.")
    dataset_name: str | None = _argument(None, "A translation dataset on the Hub, such as wmt14.")
    dataset_config_name: str | None = _argument(None, "Its configuration, such as de-en.")
    train_file: str | None = _argument(
        None,
        "A .jsonl or .json file, with a `translation` object or the languages in each line, or a "
        ".tsv file of two columns, source and target.",
    )
    validation_file: str | None = _argument(None, "The same, held out, for --do_eval.")
    test_file: str | None = _argument(None, "The same, for --do_predict.")
    max_source_length: int = _argument(128, "Tokens of a source; more are cut off.")
    max_target_length: int = _argument(128, "Tokens of a target in training; more are cut off.")
    val_max_target_length: int | None = _argument(
        None, "Tokens of a generated target; max_target_length by default."
    )
    max_train_samples: int | None = _argument(None, "Use the first so many training pairs.")
    max_eval_samples: int | None = _argument(None, "Use the first so many validation pairs.")
    max_predict_samples: int | None = _argument(None, "Use the first so many test pairs.")
    num_beams: int | None = _argument(None, "Beams of generation; 1 by default.")
    length_penalty: float = _argument(1.0, "Exponent of the length that divides a beam's score.")
    source_prefix: str = _argument("", "Put before each source.")

    def __post_init__(self):
        if not self.source_lang or not self.target_lang or self.source_lang == self.target_lang:
            raise ValueError(
                f"source_lang={self.source_lang!r} and target_lang={self.target_lang!r}: name two "
                "different languages"
            )
        files = (self.train_file, self.validation_file, self.test_file)
        if (self.dataset_name is None) == (files == (None, None, None)):
            raise ValueError(
                f"dataset_name={self.dataset_name!r} and train_file={self.train_file!r}: give a "
                "dataset, or train_file, validation_file, test_file"
            )
        for file in filter(None, files):
            if file.rpartition(".")[2] not in ("json", "jsonl", "tsv"):
                raise ValueError(f"{file}: must be a .jsonl, .json or .tsv file")
        for name in ("max_source_length", "max_target_length"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 2")
        if self.val_max_target_length is None:
            self.val_max_target_length = self.max_target_length


@dataclass
class Seq2SeqModelArguments:
    model_name_or_path: str | None = _argument(
        None, "A model to go on with; without it a new one is made of the fields below."
    )
    tokenizer_name: str | None = _argument(
        None,
        f"Folder or name of a tokenizer, or '{BYTES}'. Without it, that of the model; a new model "
        "gets a SentencePiece vocabulary trained on the data.",
    )
    vocab_size: int = _argument(8000, "Pieces of a new SentencePiece vocabulary.")
    hidden_size: int = _argument(256, "Width of each of the two reversible streams.")
    num_hidden_layers: int = _argument(4, "Layers of the encoder, and of the decoder.")
    num_attention_heads: int = _argument(4, "Heads; they divide hidden_size.")
    feed_forward_size: int = _argument(1024, "Width inside the feed-forward layers.")
    layer_type: str = _argument("full", "Self-attention: full, local, lsh, or local_lsh in turn.")
    hidden_dropout_prob: float = _argument(0.1, "Dropout of hidden states.")
    attention_probs_dropout_prob: float = _argument(0.1, "Dropout of attention.")
    decoder_form: str = _argument("cross_attention", "Decoder: cross_attention or packed.")
    reversible: bool = _argument(True, "Rebuild activations in backward instead of storing them.")

    def __post_init__(self):
        self._refuse_two_models()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of "
                f"num_attention_heads={self.num_attention_heads}: change one of them"
            )
        if self.layer_type not in ("full", "local", "lsh", "local_lsh"):
            raise ValueError(
                f"layer_type={self.layer_type!r}: choose full, local, lsh or local_lsh"
            )

    def _refuse_two_models(self) -> None:
        """What describes a new model would say nothing of one that is gone on with."""
        if self.model_name_or_path is None:
            return
        for each in fields(self)[2:]:
            if getattr(self, each.name) != each.default:
                raise ValueError(
                    f"{each.name}={getattr(self, each.name)} is for a new model, and "
                    f"model_name_or_path={self.model_name_or_path} has its own: leave one out"
                )

"""A script of our own that makes the calls of transformers' run_clm.py, in their order.

`load_dataset`, `AutoTokenizer`, `AutoModelForCausalLM`, two `map`s, `Trainer` with
`default_data_collator`, which has neither masks nor document numbers.
"""

import math
from dataclasses import dataclass
from itertools import chain

from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

import reformer_hf  # noqa: F401 (registers the classes)


@dataclass
class Arguments:
    model_name_or_path: str
    train_file: str
    cache_dir: str
    block_size: int = 64


def main() -> None:
    parser = HfArgumentParser((Arguments, TrainingArguments))  # type: ignore[arg-type]
    arguments, training = parser.parse_args_into_dataclasses()
    set_seed(training.seed)
    splits = {"validation": "train[:10%]", "train": "train[10%:]"}
    texts = load_dataset(
        "text",
        data_files={"train": arguments.train_file},
        split=list(splits.values()),
        cache_dir=arguments.cache_dir,
        keep_linebreaks=True,
    )
    config = AutoConfig.from_pretrained(arguments.model_name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(arguments.model_name_or_path, config=config)

    def tokenize(rows):
        return tokenizer(rows["text"])

    def group(rows):
        joined = {name: list(chain(*values)) for name, values in rows.items()}
        size = arguments.block_size
        total = len(joined["input_ids"]) // size * size
        rows = {
            name: [values[start : start + size] for start in range(0, total, size)]
            for name, values in joined.items()
        }
        return {**rows, "labels": list(rows["input_ids"])}

    with training.main_process_first(desc="dataset map"):
        validation, train = (
            split.map(tokenize, batched=True, remove_columns=["text"]).map(group, batched=True)
            for split in texts
        )
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=default_data_collator,
        compute_metrics=lambda _: {},
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(dim=-1),
    )
    result = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    metrics = trainer.evaluate()
    metrics["perplexity"] = math.exp(metrics["eval_loss"])
    trainer.save_metrics("eval", metrics)
    trainer.create_model_card(tasks="text-generation")


if __name__ == "__main__":
    main()

"""Train a byte-level causal Reformer on real text, save it, reload it and let it write.

`scripts/quickstart.sh` sets up an environment and starts this; where the package is installed,
`reformer-hf-quickstart` does. After an interruption the same command goes on from the last
checkpoint. It is scripts/train_clm.py with the arguments of quickstart.yaml, which those of the
command line replace.
"""

import json
import platform
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    pipeline,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from reformer_hf.hub.card import use_run_card, write_run_card
from reformer_hf.training.allocator import reuse_freed_memory
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
    argument,
)
from reformer_hf.training.checkpoints import compare_settings, run_settings
from reformer_hf.training.data.text import data_settings
from reformer_hf.training.data.token_bytes import TokenBytes
from reformer_hf.training.parsing import parse_arguments, readable_errors
from reformer_hf.training.recipe import new_model_recipe
from reformer_hf.training.record import RUN_RECORD, RunRecord, add_to_record, machine_record
from reformer_hf.training.storage import readable_disk_errors, write_json
from reformer_hf.training.tasks.language_model import train_clm
from reformer_hf.training.trainer import training_totals

NAME = "Byte-level Reformer (quickstart)"
CONFIGURATION = Path(__file__).with_suffix(".yaml")
STANDARD_LIBRARY = str(Path(sysconfig.get_path("stdlib"), "**", "*.py"))
METRICS = "metrics.json"
PROMPT_BYTES = 400


@dataclass
class CorpusArguments(DataTrainingArguments):
    """The data of train_clm.py, and one name for all that they may come from."""

    corpus: str | None = argument(
        None,
        "A text file, a folder of text files, or the name of a dataset on the Hub. "
        "Default: the source of this Python's standard library.",
    )

    def __post_init__(self):
        if self.corpus is None and self.train_file is None and self.dataset_name is None:
            self.corpus = STANDARD_LIBRARY
        if self.corpus is not None:
            for name in ("train_file", "dataset_name"):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(f"corpus={self.corpus!r} and {name}={value!r}: give one")
            if "*" in self.corpus or Path(self.corpus).expanduser().exists():
                self.train_file = self.corpus
            else:
                self.dataset_name, self.data_format = self.corpus, "text"
            self.corpus = None  # it has another name from here on
        super().__post_init__()


@dataclass
class QuickstartArguments:
    """What the quickstart adds to the arguments of train_clm.py."""

    _argument_group_name = "quickstart"

    max_new_tokens: int = argument(300, "Bytes of the sample at the end.")


def parse(arguments: list[str] | None) -> tuple[Any, ...]:
    """Parse the arguments: the quickstart's, the model's, the data's, those of training."""
    given = sys.argv[1:] if arguments is None else arguments
    kinds = (
        QuickstartArguments,
        PretrainedModelArguments,
        CorpusArguments,
        ReformerTrainingArguments,
    )
    quickstart, model, data, training = parse_arguments(
        kinds, [str(CONFIGURATION), *given], __doc__, new_model_recipe
    )
    if not (training.do_train and training.do_eval):
        raise ValueError(
            f"do_train={training.do_train}, do_eval={training.do_eval}: the quickstart does both; "
            "use scripts/train_clm.py for one of them"
        )
    if quickstart.max_new_tokens >= data.block_size:
        raise ValueError(
            f"max_new_tokens={quickstart.max_new_tokens}: prompt and sample must fit into "
            f"block_size={data.block_size} together"
        )
    return quickstart, model, data, training


def main(arguments: list[str] | None = None) -> int:
    """Train, compare, reload and write; what a user can mend becomes a message and a status."""
    disable_progress_bar()  # those of loading and saving, which take no time here
    start = time.perf_counter()
    with readable_errors() as status:
        quickstart, model, data, training = parse(arguments)
        folder = Path(str(training.output_dir))
        end = None
        if (folder / METRICS).exists():
            settings = run_settings(model, data_settings(data, folder), training.seed)
            compare_settings(folder, settings)
            end = how_it_ended(folder, training)
        if end is not None:
            print(f"{end}: see {folder}. To start anew, delete it or choose another --output_dir.")
        else:
            run(quickstart.max_new_tokens, model, data, training)
            print(f"{(time.perf_counter() - start) / 60:.1f} minutes in all")
    return status.code


def how_it_ended(folder: Path, training: ReformerTrainingArguments) -> str | None:
    """Say how a run that has its metrics ended; None if these arguments let it train on."""
    done = json.loads((folder / METRICS).read_text(encoding="utf-8"))["training"]
    if not done["stopped_by_the_clock"]:
        return None if training.max_steps > done["steps"] else "This run is finished"
    if training.max_minutes is None or done["seconds"] < 60 * training.max_minutes:
        return None
    return (
        f"This run was stopped by the clock at step {done['steps']}, and more --max_minutes let it "
        "go on"
    )


def run(
    max_new_tokens: int,
    model: PretrainedModelArguments,
    data: DataTrainingArguments,
    training: ReformerTrainingArguments,
) -> None:
    """Train with `train_clm`, and show what came of it."""
    trainers: list[Trainer] = []

    def prepare(trainer: Trainer) -> None:
        trainers.append(trainer)
        use_run_card(trainer)
        if data.train_file == STANDARD_LIBRARY:
            (record,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, RunRecord))
            version = platform.python_version()
            record.data["data"] = f"the source of Python {version}'s standard library"

    results = train_clm(model, data, training, prepare=prepare)
    if training.dry_run:
        return
    (trainer,) = trainers
    folder, state = Path(str(training.output_dir)), trainer.state
    if state.global_step < state.max_steps:
        print(
            f"Stopped at step {state.global_step} of {state.max_steps}: "
            f"max_minutes={training.max_minutes} are over"
        )
    rows: Any = trainer.eval_dataset
    held_out = [torch.as_tensor(row["input_ids"]) for row in rows]
    known: Any = TokenBytes.of(trainer.processing_class)  # type: ignore[arg-type]
    check_reload(folder, trainer.model, trainer.processing_class, held_out[0])  # type: ignore[arg-type]
    scored = {
        **{
            name.removeprefix("eval_"): value
            for name, value in results.items()
            if name.endswith("_bits_per_byte")
        },
        "bytes_scored": results["eval_bytes"],
        "windows": len(held_out),
        "context": data.block_size,
    }
    print(
        f"Saved, reloaded through the Auto classes, same logits: {folder} "
        "(model, tokenizer, card, loss curve, metrics)"
    )
    set_seed(training.seed)
    room = scored["context"] - max_new_tokens
    prompt = known.text(held_out[0][: min(PROMPT_BYTES, room)].tolist()).decode(errors="ignore")
    write = pipeline("text-generation", model=str(folder), return_full_text=False)
    (sample,) = write(prompt, max_new_tokens=max_new_tokens, do_sample=True, temperature=0.8)
    print(f"\n--- prompt (held-out text) ---\n{prompt}")
    print(f"--- the model goes on ---\n{sample['generated_text']}\n---")
    write_reports(folder, trainer, scored, {"prompt": prompt, "text": sample["generated_text"]})


def check_reload(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor
) -> None:
    """Load model and tokenizer through the Auto classes, and compare with those that were saved.

    Raises:
        RuntimeError: if what was loaded is not what was saved.
    """
    loaded = AutoModelForCausalLM.from_pretrained(folder, device_map=model.device)
    with torch.no_grad():
        before, after = (
            each.eval()(input_ids=ids[None].to(model.device)).logits for each in (model, loaded)
        )
    if not torch.equal(before, after):
        difference = (before - after).abs().max()
        raise RuntimeError(f"the reloaded model's logits differ by up to {difference}")
    text = "naïve\t🙂\n"
    if AutoTokenizer.from_pretrained(folder)(text).input_ids != tokenizer(text).input_ids:
        raise RuntimeError("the reloaded tokenizer gives other ids")


def write_reports(
    folder: Path, trainer: Trainer, scored: dict[str, Any], sample: dict[str, str]
) -> None:
    """Write the card under the quickstart's name, and `metrics.json`, which ends the run."""
    record = json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
    metrics = {
        "held_out": scored,
        "training": {
            "steps": trainer.state.global_step,
            **training_totals(trainer),
        },
        "parameters": record["model"]["parameters"],
        "corpus": record["data"],
        "machine": machine_record(),
    }
    with readable_disk_errors(folder, "The model is whole, and training need not be repeated."):
        add_to_record(folder, {"sample": sample})
        write_run_card(folder, NAME)
        write_json(folder / METRICS, metrics)


if __name__ == "__main__":
    reuse_freed_memory()  # as scripts/quickstart.sh asks in the environment
    sys.exit(main())

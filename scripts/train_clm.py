"""Train a causal Reformer with transformers' Trainer: from a configuration, or from a checkpoint.

A first run on a text of your own, with bytes as tokens:

    python scripts/train_clm.py --train_file text.txt --do_train --do_eval --max_minutes 10
        --output_dir outputs/mine

What that leaves open the script chooses for a new model, and prints (docs/new_models.md). All
arguments may stand in a file, which those behind it replace:

    python scripts/train_clm.py scripts/configs/small_cpu.yaml --train_file text.txt

On several processes: `torchrun --nproc_per_node 2 scripts/train_clm.py ...`, or `accelerate
launch`. After an interruption add `--resume_from_checkpoint last`: the run goes on bit for bit as
if it had not been interrupted.
"""

import os
import sys

if __name__ == "__main__":  # before anything makes a tensor
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import reformer_hf  # noqa: F401 (registers the classes)
from reformer_hf.hub.card import use_run_card
from reformer_hf.training.allocator import reuse_freed_memory
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
)
from reformer_hf.training.parsing import parse_arguments, readable_errors
from reformer_hf.training.recipe import new_model_recipe
from reformer_hf.training.tasks.language_model import train_clm


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, and turn what a user can mend into a message and an exit status."""
    kinds = (PretrainedModelArguments, DataTrainingArguments, ReformerTrainingArguments)
    with readable_errors() as status:
        parsed = parse_arguments(kinds, arguments, __doc__, new_model_recipe)
        train_clm(*parsed, prepare=use_run_card)
    return status.code


if __name__ == "__main__":
    reuse_freed_memory()
    sys.exit(main())

"""Train a masked (bidirectional) Reformer with transformers' Trainer.

Arguments are those of transformers' `run_mlm.py` and of `train_clm.py`:

    python scripts/train_mlm.py --train_file text.txt --do_train --do_eval --block_size 4096
        --max_steps 400 --output_dir outputs/masked

A causal checkpoint is a start, too. A tokenizer without a mask token gets `<mask>`, and the model
an embedding for it.
"""

import os
import sys
from functools import partial

if __name__ == "__main__":  # before anything makes a tensor
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import reformer_hf  # noqa: F401 (registers the classes)
from reformer_hf.hub.card import use_run_card
from reformer_hf.training.allocator import reuse_freed_memory
from reformer_hf.training.arguments import (
    MaskedDataArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
)
from reformer_hf.training.parsing import parse_arguments, readable_errors
from reformer_hf.training.recipe import new_model_recipe
from reformer_hf.training.tasks.language_model import train_mlm


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, and turn what a user can mend into a message and an exit status."""
    kinds = (PretrainedModelArguments, MaskedDataArguments, ReformerTrainingArguments)
    with readable_errors() as status:
        recipe = partial(new_model_recipe, causal=False)
        parsed = parse_arguments(kinds, arguments, __doc__, recipe)
        train_mlm(*parsed, prepare=use_run_card)
    return status.code


if __name__ == "__main__":
    reuse_freed_memory()
    sys.exit(main())

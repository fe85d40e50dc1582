"""Train a Reformer to classify texts of any length in one piece, or each word of a text.

Arguments are those of transformers' `run_classification.py` and `run_ner.py`:

    python scripts/train_classification.py --train_file reviews.csv --do_train --do_eval
        --max_seq_length 16384 --output_dir outputs/reviews

With `--task_name token` the rows hold lists of words and as many labels. Causal and masked language
models are checkpoints to start from; without one a new model reads bytes.
"""

import os
import sys
from functools import partial

if __name__ == "__main__":  # before anything makes a tensor
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import reformer_hf  # noqa: F401 (registers the classes)
from reformer_hf.hub.card import use_run_card
from reformer_hf.training.allocator import reuse_freed_memory
from reformer_hf.training.arguments import PretrainedModelArguments, ReformerTrainingArguments
from reformer_hf.training.data.labelled import ClassificationDataArguments
from reformer_hf.training.parsing import parse_arguments, readable_errors
from reformer_hf.training.recipe import CLASSIFIER_OPTIMIZER, new_model_recipe
from reformer_hf.training.tasks.classification import train_classification


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, and turn what a user can mend into a message and an exit status."""
    kinds = (PretrainedModelArguments, ClassificationDataArguments, ReformerTrainingArguments)
    with readable_errors() as status:
        recipe = partial(new_model_recipe, optimizer=CLASSIFIER_OPTIMIZER, causal=False)
        parsed = parse_arguments(kinds, arguments, __doc__, recipe)
        train_classification(*parsed, prepare=use_run_card)
    return status.code


if __name__ == "__main__":
    reuse_freed_memory()
    sys.exit(main())

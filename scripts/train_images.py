"""Train a causal Reformer on images as byte sequences, and sample images from it as PNG files.

    python scripts/train_images.py --train_dir photos/
    python scripts/train_images.py --dataset_name cifar10 --image_column_name img --image_size 32

The model is small unless --config_overrides says otherwise. After an interruption add
--resume_from_checkpoint last.
"""

import os
import sys

if __name__ == "__main__":  # before anything makes a tensor
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import reformer_hf  # noqa: F401 (registers the classes)
from reformer_hf.hub.card import use_run_card
from reformer_hf.training.allocator import reuse_freed_memory
from reformer_hf.training.data.images import ImageArguments
from reformer_hf.training.parsing import parse_arguments, readable_errors
from reformer_hf.training.tasks.images import (
    ImageModelArguments,
    ImageTrainingArguments,
    train_images,
)


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, and turn what a user can mend into a message and an exit status."""
    kinds = (ImageArguments, ImageModelArguments, ImageTrainingArguments)
    with readable_errors() as status:
        train_images(*parse_arguments(kinds, arguments, __doc__), prepare=use_run_card)
    return status.code


if __name__ == "__main__":
    reuse_freed_memory()
    sys.exit(main())

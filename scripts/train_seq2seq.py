"""Train an encoder-decoder Reformer to translate, score it with sacreBLEU, translate a test set.

    python scripts/train_seq2seq.py --dataset_name wmt14 --dataset_config_name de-en \\
        --source_lang en --target_lang de --do_train --do_eval --predict_with_generate \\
        --label_smoothing_factor 0.1 --num_beams 4 --output_dir outputs/wmt14

Arguments are those of transformers' run_translation.py and Seq2SeqTrainingArguments. Without
--model_name_or_path a new model is trained, by default with a new SentencePiece vocabulary;
--config_overrides gives its sizes, such as 'hidden_size=512,num_attention_heads=8'.
After an interruption add --resume_from_checkpoint last.
"""

import os
import sys

if __name__ == "__main__":  # before anything makes a tensor
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import reformer_hf  # noqa: F401 (registers the classes)
from reformer_hf.hub.card import use_run_card
from reformer_hf.training.allocator import reuse_freed_memory
from reformer_hf.training.data.pairs import TranslationArguments
from reformer_hf.training.parsing import parse_arguments, readable_errors
from reformer_hf.training.tasks.translation import (
    TranslationModelArguments,
    TranslationTrainingArguments,
    train_translation,
)


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, and turn what a user can mend into a message and an exit status."""
    kinds = (TranslationModelArguments, TranslationArguments, TranslationTrainingArguments)
    with readable_errors() as status:
        train_translation(*parse_arguments(kinds, arguments, __doc__), prepare=use_run_card)
    return status.code


if __name__ == "__main__":
    reuse_freed_memory()
    sys.exit(main())

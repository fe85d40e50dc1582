"""BLEU of translations, and the texts that it is measured on."""

from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase


def bleu_metrics(tokenizer: PreTrainedTokenizerBase) -> Callable[[Any], dict[str, Any]]:
    """A `compute_metrics` of Trainer: sacreBLEU of generated ids against labels.

    Raises:
        ImportError: without the extra `translate`.
    """
    _bleu()  # now, rather than after the first epoch

    def compute(evaluated: Any) -> dict[str, Any]:
        return corpus_bleu(*(decode(tokenizer, ids) for ids in (evaluated[0], evaluated[1])))

    return compute


def corpus_bleu(translations: list[str], references: list[str]) -> dict[str, Any]:
    """Score translations with sacreBLEU, and give its signature.

    Raises:
        ImportError: without the extra `translate`.
    """
    metric = _bleu()()
    score = metric.corpus_score(translations, [references])
    return {"bleu": score.score, "bleu_signature": str(metric.get_signature())}


def _bleu() -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ImportError(
            "predict_with_generate needs sacreBLEU: pip install 'reformer_hf[translate]'"
        ) from error
    return BLEU


def decode(tokenizer: PreTrainedTokenizerBase, ids: Any) -> list[str]:
    """Texts of rows of token ids, in which -100 is padding; spaces are one, line ends are spaces.

    Args:
        tokenizer: of the ids.
        ids: a matrix, or rows of different lengths.
    """
    pad: Any = tokenizer.pad_token_id
    rows = [np.where(np.asarray(row) == -100, pad, row) for row in ids]
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [" ".join(text.split()) for text in texts]

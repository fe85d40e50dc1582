"""Training: arguments, data, the Trainer, checkpoints and records. Names are imported on demand."""

from importlib import import_module
from typing import Any

_HOMES = {
    "CausalLMTrainer": "trainer",
    "DataTrainingArguments": "arguments",
    "GrowingRowsTrainer": "growing_rows",
    "MaskedLMTrainer": "trainer",
    "MuonTrainer": "optimizers",
    "OptimizerInBackward": "optimizer_in_backward",
    "OptimizerInBackwardTrainer": "optimizer_in_backward",
    "PieceBatches": "data.pieces",
    "PretrainedModelArguments": "arguments",
    "ReformerDataCollator": "data.collator",
    "ReformerTrainingArguments": "arguments",
    "RowPieces": "data.pieces",
    "RowSchedule": "row_schedule",
    "RunRecord": "record",
    "SealedCheckpoints": "trainer",
    "fit_to_depth": "allocator",
    "hidden_matrices": "optimizers",
    "load_language_model_data": "data.text",
    "make_optimizer": "optimizers",
    "parse_arguments": "parsing",
    "reuse_freed_memory": "allocator",
    "score_batches": "evaluation",
    "score_documents": "perplexity",
    "train_clm": "tasks.language_model",
    "train_mlm": "tasks.language_model",
    "unit_use": "units",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(_HOMES)

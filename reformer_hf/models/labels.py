"""Reading labels: what is accepted, which of them count, what a classification's loss is."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from transformers.utils import logging

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.inputs import (
    can_look,
    find_documents,
    require_integers,
    require_tensor,
)

logger = logging.get_logger(__name__)

IGNORE_INDEX = -100
"""Label without a loss."""

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def check_token_labels(
    labels: Tensor,
    shape: torch.Size,
    config: ReformerHFConfig,
    limit: Literal["vocab_size", "num_labels"],
) -> None:
    """Check the shape and range of one label per token, the latter on the CPU only.

    Args:
        labels: numbers below the limit, or -100.
        shape: (batch, seq) of the input.
        config: the configuration.
        limit: the field that says how many different labels there are.

    Raises:
        ValueError: naming the value and the fix.
    """
    require_integers("labels", labels)
    if labels.shape != shape:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}, the input has {tuple(shape)}: give one label "
            "per token, -100 where there is no loss"
        )
    check_classes(labels, getattr(config, limit), limit)


def check_classes(labels: Tensor, count: int, field: str) -> None:
    """Check the range of labels on the CPU.

    Args:
        labels: numbers below `count`, or -100, of any shape.
        count: of different labels.
        field: what to call it.

    Raises:
        ValueError: naming the value and the fix.
    """
    if not can_look(labels):
        return
    wrong = labels[((labels < 0) & (labels != IGNORE_INDEX)) | (labels >= count)]
    if wrong.numel():
        fix = "token ids" if field == "vocab_size" else f"numbers from 0 to {count - 1}"
        raise ValueError(
            f"labels has {int(wrong[0])}, but {field}={count}: give {fix}, or -100 where there is "
            "no loss"
        )


def first_token_labels(
    labels: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
    counted: bool,
) -> Tensor:
    """Take the loss from the first token of each document, which no place of its own predicts.

    Args:
        labels: (batch, seq).
        attention_mask: as given to the model.
        position_ids: as given to the model.
        seq_idx: as given to the model.
        counted: whether the caller has counted the labels, to divide the loss by them.

    Returns:
        Labels with -100 there.
    """
    labels = labels.long()
    if position_ids is not None:
        position_ids = position_ids.expand(labels.shape[0], -1)
    documents = find_documents(labels.shape[0], attention_mask, position_ids, seq_idx)
    if documents is None:
        return labels
    documents = documents.to(labels.device)
    begins = torch.ones_like(labels, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    dropped = begins[:, 1:] & (labels[:, 1:] != IGNORE_INDEX)
    if counted and can_look(labels) and dropped.any():
        logger.warning_once(
            "num_items_in_batch counts labels of first tokens of documents, which have no loss "
            "here, so the loss is a little too small: set these labels to -100, or pad on the right"
        )
    return labels.masked_fill(begins, IGNORE_INDEX)


def problem_type_of(config: ReformerHFConfig, labels: Tensor) -> ProblemType:
    """The configuration's `problem_type`, or what transformers would take the labels for.

    Unlike there it is not written into the configuration, where the first batch would decide for
    all later ones.

    Args:
        config: the configuration.
        labels: of a batch of rows.

    Returns:
        The kind of problem.
    """
    require_tensor("labels", labels)
    if config.problem_type is not None:
        return config.problem_type
    if config.num_labels != 1 and not (labels.is_floating_point() or labels.dtype == torch.bool):
        return "single_label_classification"
    kind = "regression" if config.num_labels == 1 else "multi_label_classification"
    logger.warning_once(
        f"labels of dtype {labels.dtype} with num_labels={config.num_labels} are taken for "
        f"{kind}: set problem_type={kind!r} in the configuration, so that pipelines know it too"
    )
    return kind


def check_row_labels(
    labels: Tensor, rows: int, config: ReformerHFConfig, kind: ProblemType
) -> None:
    """Check the labels of a sequence classification, their values on the CPU only.

    Args:
        labels: one class number or -100 per row, or `num_labels` numbers.
        rows: of the input.
        config: the configuration.
        kind: of problem.

    Raises:
        ValueError: naming the value and the fix.
    """
    count: Any = config.num_labels
    single = kind == "single_label_classification"
    shapes = [(rows,), (rows, 1)] if single or count == 1 else [(rows, count)]
    if tuple(labels.shape) not in shapes:
        other = "" if config.problem_type else "; or set problem_type in the configuration"
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}, but {kind} with num_labels={count} and "
            f"{rows} rows needs {shapes[0]}: correct the labels, or num_labels{other}"
        )
    if single:
        require_integers("labels", labels)
        check_classes(labels, count, "num_labels")
    elif kind == "multi_label_classification" and can_look(labels):
        wrong = labels[~((labels >= 0) & (labels <= 1))]
        if wrong.numel():
            raise ValueError(
                f"labels has {float(wrong[0])}, but problem_type={kind!r}: give 1 for each class "
                "that holds and 0 for the others, or set problem_type='regression'"
            )


def row_loss(
    logits: Tensor, labels: Tensor, kind: ProblemType, num_items: Tensor | int | None
) -> Tensor:
    """Loss of a sequence classification.

    Args:
        logits: (batch, num_labels).
        labels: as `check_row_labels` accepts them.
        kind: of problem.
        num_items: what the summed loss is divided by; None for the number of labels.

    Returns:
        The loss, float32 or wider.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(logits.device)
    reduction = "mean" if num_items is None else "sum"
    if kind == "single_label_classification":
        loss = cross_entropy(logits, labels.view(-1).long(), reduction=reduction)
    else:
        loss_function = mse_loss if kind == "regression" else binary_cross_entropy_with_logits
        loss = loss_function(logits, labels.to(logits.dtype).view_as(logits), reduction=reduction)
    if isinstance(num_items, Tensor):
        num_items = num_items.to(loss.device)
    return loss if num_items is None else loss / num_items

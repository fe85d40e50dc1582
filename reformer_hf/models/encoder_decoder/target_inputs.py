"""Reading the decoder's inputs: labels become the tokens it reads, padding is found."""

from typing import Any

import torch
from torch import Tensor

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.inputs import can_look, check_ids
from reformer_hf.models.labels import IGNORE_INDEX, check_token_labels


def shift_right(config: ReformerHFConfig, labels: Tensor) -> Tensor:
    """What the decoder reads to predict labels: the start token, and each label but the last.

    Labels padded on the left give inputs padded on the left: the start token stands before the
    first real label.

    Args:
        config: the configuration.
        labels: token ids, -100 at padding, (batch, target).

    Returns:
        Token ids of the same shape.

    Raises:
        ValueError: if `decoder_start_token_id` is missing, or padding cannot be told from it.
    """
    start, padding = _start_token(config), config.pad_token_id
    real = labels != IGNORE_INDEX
    leading = real.long().cumsum(dim=1) == 0
    if padding in (None, start) and can_look(labels) and (leading[:, 0] & real.any(dim=1)).any():
        raise ValueError(
            f"labels are padded on the left, with pad_token_id={padding} and "
            f"decoder_start_token_id={start}: padding could not be told from the start; pad labels "
            "on the right (tokenizer.padding_side='right'), or set another pad_token_id"
        )
    shifted = torch.cat([labels.new_full((len(labels), 1), IGNORE_INDEX), labels[:, :-1]], dim=1)
    shifted = shifted.masked_fill(shifted == IGNORE_INDEX, start if padding is None else padding)
    first = leading.sum(dim=1, keepdim=True) % labels.shape[1]  # 0 in a row without labels
    return shifted.scatter(1, first, start)


def repeat_source(
    config: ReformerHFConfig, input_ids: Tensor, attention_mask: Tensor | None
) -> Tensor:
    """What a decoder reads that is given nothing: the start token, and the source but its last.

    Args:
        config: the configuration.
        input_ids: token ids of the source, (batch, source).
        attention_mask: 1 at real tokens of the source, which stay where they are; None if all are.

    Returns:
        Token ids of the same shape, with the source's mask.
    """
    first = torch.zeros(len(input_ids), 1, dtype=torch.long, device=input_ids.device)
    if attention_mask is not None:
        first = attention_mask.long().argmax(dim=1, keepdim=True)
    return input_ids.roll(1, dims=1).scatter(1, first, _start_token(config))


def _start_token(config: ReformerHFConfig) -> int:
    if config.decoder_start_token_id is None:
        raise ValueError(
            "decoder_start_token_id=None: the decoder must read something before the first label; "
            "set it in the configuration, to pad_token_id or bos_token_id for example"
        )
    return config.decoder_start_token_id


def mask_padding(config: ReformerHFConfig, decoder_input_ids: Tensor) -> Tensor | None:
    """Find the padding before the start token.

    Padding at the end needs no mask, since no token before it sees it.

    Args:
        config: the configuration.
        decoder_input_ids: token ids, (batch, target).

    Returns:
        1 from the first token on that is no pad token, (batch, target); None if that is all, where
        the ids can be looked at without waiting for a device.
    """
    padding = config.pad_token_id
    if padding in (None, config.decoder_start_token_id):
        return None
    is_padding = decoder_input_ids == padding
    if can_look(decoder_input_ids) and not is_padding[:, 0].any():
        return None
    return (~is_padding).long().cumsum(dim=1).clamp(max=1)


def check_target(
    config: ReformerHFConfig,
    decoder_input_ids: Tensor | None,
    decoder_inputs_embeds: Tensor | None,
    labels: Tensor | None,
) -> None:
    """Check what the decoder is to read and to predict; values on the CPU only.

    Raises:
        ValueError: naming the argument, its value and the fix.
    """
    if decoder_input_ids is not None and decoder_inputs_embeds is not None:
        raise ValueError("give only one of decoder_input_ids and decoder_inputs_embeds")
    if labels is not None:
        if labels.ndim != 2 or 0 in labels.shape:
            raise ValueError(
                f"labels has shape {tuple(labels.shape)}: it must be (batch, target) with at least "
                "one row and one token"
            )
        read = decoder_inputs_embeds if decoder_input_ids is None else decoder_input_ids
        shape = labels.shape if read is None else read.shape[:2]
        check_token_labels(labels, shape, config, "vocab_size")
    elif decoder_input_ids is None and decoder_inputs_embeds is None:
        raise ValueError(
            "give labels, decoder_input_ids or decoder_inputs_embeds: with none of them the "
            "decoder has nothing to read (Trainer's label_smoothing_factor takes the labels away: "
            "use DataCollatorForSeq2Seq(tokenizer, model=model), which adds decoder_input_ids)"
        )
    if decoder_input_ids is not None:
        check_ids("decoder_input_ids", decoder_input_ids, config.vocab_size)


def check_source(states: Any, attention_mask: Tensor | None, rows: int, width: int) -> None:
    """Check encoder outputs against the rest of the input.

    Args:
        states: encoder output, as given or computed.
        attention_mask: of the source.
        rows: of the target.
        width: that an encoder output has.

    Raises:
        ValueError: naming the argument, its value and the fix.
    """
    if not isinstance(states, Tensor) or states.ndim != 3 or states.shape[-1] != width:
        found = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
        raise ValueError(
            f"encoder_outputs holds {found} in the first place: give what model.get_encoder() "
            f"returns, whose last_hidden_state is (batch, source, {width})"
        )
    if len(states) != rows:
        raise ValueError(
            f"the source has {len(states)} rows, the target {rows}: give one target per source"
        )
    if attention_mask is not None and attention_mask.shape != states.shape[:2]:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, the source has "
            f"{tuple(states.shape[:2])}: give one 0 or 1 per source token; "
            "decoder_attention_mask is for the target"
        )

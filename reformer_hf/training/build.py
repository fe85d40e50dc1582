"""The model and the tokenizer that a training script's arguments describe."""

import re
from collections.abc import Mapping, Sized
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from reformer_hf.models.configuration_reformer_hf import OWN_NAMES, ReformerHFConfig
from reformer_hf.models.configuration_rules import own_names, unknown_names
from reformer_hf.models.tokenization_reformer_hf import ReformerHFByteTokenizer
from reformer_hf.training.allocator import fit_to_depth
from reformer_hf.training.arguments import PretrainedModelArguments
from reformer_hf.training.row_schedule import RowSchedule
from reformer_hf.training.settings_files import read_yaml

logger = logging.get_logger(__name__)


def load_tokenizer(arguments: PretrainedModelArguments) -> PreTrainedTokenizerBase:
    """Load the named tokenizer, or that of the model; bytes where there is no model.

    Raises:
        OSError: if there is none of that name.
    """
    name = arguments.tokenizer_name or arguments.model_name_or_path or arguments.config_name
    if name is None or name == "bytes":
        return ReformerHFByteTokenizer()
    try:
        return AutoTokenizer.from_pretrained(
            name,
            cache_dir=arguments.cache_dir,
            revision=arguments.model_revision,
            token=arguments.token,
            trust_remote_code=arguments.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        if arguments.tokenizer_name is None and arguments.model_name_or_path is None:
            return ReformerHFByteTokenizer()
        raise OSError(
            f"no tokenizer could be loaded from {name} ({error}); name one with tokenizer_name, "
            "'bytes' for models of bytes such as google/reformer-enwik8"
        ) from error


def build_model(
    model_class: Any,
    arguments: PretrainedModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int | None = None,
    task_fields: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Any:
    """Load a checkpoint, or make a model with random weights that come from torch's generator.

    How much freed memory the process keeps is chosen by its depth (`fit_to_depth`).

    Args:
        model_class: of this package, or an Auto class where the arguments name a checkpoint.
        arguments: which model, and what of it is trained.
        tokenizer: its vocabulary decides the size of the embeddings.
        block_size: tokens in a row, which a new model's positions cover.
        task_fields: of the configuration in any case, such as `id2label`.
        **fields: of a new model's configuration, where the arguments do not say otherwise.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if a field of the configuration does not exist or does not fit.
    """
    task_fields = task_fields or {}
    if arguments.model_name_or_path is not None:
        config = _load_config(arguments, **task_fields) if arguments.config_name else None
        model = model_class.from_pretrained(
            arguments.model_name_or_path,
            config=config,
            **({} if config else task_fields),
            cache_dir=arguments.cache_dir,
            revision=arguments.model_revision,
            token=arguments.token,
            # bfloat16 files would give bfloat16 weights, too coarse for the steps of an optimizer.
            dtype=arguments.dtype or "float32",
        )
    else:
        config = _new_config(arguments, tokenizer, block_size, fields, task_fields)
        dtype = {} if arguments.dtype in (None, "auto") else {"dtype": arguments.dtype}
        model = model_class._from_config(config, **dtype)
    if arguments.attn_implementation is not None:
        model.set_attn_implementation(arguments.attn_implementation)
    if len(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokenizer))
    if arguments.freeze_embeddings:
        model.base_model.embeddings.requires_grad_(False)
    fit_to_depth(_count_layers(model.config))
    return _add_adapters(model, arguments) if arguments.use_lora else model


def _count_layers(config: Any) -> int:
    """Layers of a model, of both sides if it has two: one backward goes through all of them."""
    sides = (getattr(config, f"{side}_attn_layers", None) or () for side in ("encoder", "decoder"))
    return sum(map(len, sides)) or config.num_hidden_layers


def limit_length(tokenizer: Any, model: Any) -> None:
    """Let a tokenizer truncate at what the model takes, where that is limited.

    Pipelines with `truncation=True` need it. Call it when the data are tokenised, which documents
    of any length may be.

    Args:
        tokenizer: None or what is none, such as a processor of images, stays as it is.
        model: with adapters or without.
    """
    config: Any = getattr(model, "config", None)
    limit = getattr(config, "position_limit", None)
    if limit is not None and getattr(config, "decoder_form", None) == "packed":
        limit //= 2  # source and target share them
    if limit is not None and isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer.model_max_length = limit


def describe_size(model: Any, rows: Any, steps: int | RowSchedule) -> str:
    """Say how large a model is, and its steps; a progress bar says how long they take.

    Args:
        model: with adapters or without.
        rows: to train on; a stream may not be read for this.
        steps: rows of a step, or a schedule of rows that grow.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    total, trained = (base.num_parameters(only_trainable=only) for only in (False, True))
    size = f"Model: {total:,} parameters" + (f", {trained:,} trained" * (trained != total))
    if isinstance(steps, RowSchedule):
        return f"{size}. {steps}"
    first: Any = rows[0] if isinstance(rows, Sized) and len(rows) else {}  # type: ignore[index]
    tokens = f" of {len(first['input_ids']):,} tokens or so" if "input_ids" in first else ""
    return f"{size}. A step: {steps:,} rows{tokens}"


def parse_overrides(text: str) -> dict[str, Any]:
    """Parse `name=value,name=value`, with values as YAML writes them.

    Returns:
        Fields of the configuration, or `num_hidden_layers`, under our own names.

    Raises:
        ValueError: naming the part that cannot be read, or the field that does not exist.
    """
    fields = {}
    for part in re.split(r",(?=\s*\w+\s*=)", text):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(f"config_overrides: {part!r} is not of the form name=value")
        if name not in OWN_NAMES:
            advice = unknown_names([name], OWN_NAMES).get(name, "it is set elsewhere")
            raise ValueError(
                f"config_overrides: a ReformerHFConfig has no field {name!r}: {advice}"
            )
        if name in fields:
            raise ValueError(f"config_overrides: {name} stands twice; leave one of them out")
        try:
            fields[name] = read_yaml(value)
        except ValueError as error:
            raise ValueError(f"config_overrides: {part!r} cannot be read ({error})") from error
    return own_names(fields)


def _load_config(arguments: PretrainedModelArguments, **fields: Any) -> ReformerHFConfig:
    assert arguments.config_name is not None
    return ReformerHFConfig.from_pretrained(
        arguments.config_name, cache_dir=arguments.cache_dir, token=arguments.token, **fields
    )


def _new_config(
    arguments: PretrainedModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int | None,
    fields: dict[str, Any],
    task_fields: Mapping[str, Any],
) -> ReformerHFConfig:
    """Configure a new model: the arguments' fields, else those of the tokenizer and the rows."""
    overrides = parse_overrides(arguments.config_overrides) if arguments.config_overrides else {}
    if arguments.config_name is not None:
        return _load_config(arguments, **overrides, **task_fields)
    logger.info("A new configuration and random weights")
    defaults: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "chunk_size_lm_head": 1024,
    }
    if block_size is not None and "axial_pos_shape" not in overrides:
        defaults["max_position_embeddings"] = block_size
    return ReformerHFConfig(**{**defaults, **fields, **overrides, **task_fields})


def _add_adapters(model: PreTrainedModel, arguments: PretrainedModelArguments) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("use_lora needs peft: pip install peft") from error
    targets: Any = arguments.lora_target_modules
    config = LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM" if type(model).__name__.endswith("ForCausalLM") else None,
    )
    return get_peft_model(model, config)

"""Conversion of checkpoint folders from and to the format of transformers' Reformer."""

import dataclasses
import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedConfig, ReformerConfig

from reformer_hf.models.configuration_reformer_hf import ReformerHFConfig
from reformer_hf.models.modeling_reformer_hf import ReformerHFForCausalLM

logger = logging.getLogger(__name__)

CheckpointFormat = Literal["reformer_hf", "reformer"]

TOKENIZER_FILES = (
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def convert_checkpoint(
    source: str | PathLike,
    target: str | PathLike,
    to: CheckpointFormat | None = None,
    force: bool = False,
) -> CheckpointFormat:
    """Convert a causal language model's folder, with its tokenizer.

    The target appears whole or not at all.

    Args:
        source: folder of this package or of transformers' Reformer, or its name on the Hub.
        target: folder to write, which must not exist or be empty.
        to: format to write; by default the one that `source` does not have.
        force: write transformers' format also if transformers computes something else from it.

    Returns:
        The format written.

    Raises:
        ValueError: if `target` has files, `source` is not a whole causal model, or the format
            cannot express it.
        OSError: if a file cannot be read or written.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"target {target} exists: give a new folder, or remove this one")
    folder = _find_source(source)
    config_dict, _ = PreTrainedConfig.get_config_dict(folder)
    if to is None:
        to = "reformer_hf" if config_dict.get("model_type") == "reformer" else "reformer"
    model = _load_whole_model(folder)
    stock_config = to_stock_config(model.config, force) if to == "reformer" else None
    if stock_config is not None and model.lm_head.bias.any():
        logger.warning(
            "lm_head.bias is not zero: it is written, but transformers 5 does not apply it"
        )
    with _written_whole(target) as unfinished:
        if stock_config is None:
            model.save_pretrained(unfinished, max_shard_size="1TB")
        else:
            _save_stock(model, stock_config, unfinished)
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copy(folder / name, unfinished)
        _check_weights(unfinished, model.state_dict())
    return to


def to_stock_config(config: ReformerHFConfig, force: bool = False) -> ReformerConfig:
    """Express a configuration as one of transformers' Reformer.

    Args:
        config: of a causal model.
        force: do so also if transformers computes something else from it.

    Returns:
        The configuration.

    Raises:
        ValueError: naming each field that transformers' Reformer has no equivalent for.
    """
    unknown, different = _missing_in_stock(config)
    if unknown or (different and not force):
        hint = "" if unknown else "; with force, it is written all the same"
        raise ValueError(
            "transformers' Reformer cannot compute what this model does: "
            + "; ".join(unknown + different)
            + f". Keep the reformer_hf format{hint}"
        )
    stock_fields = {field.name for field in dataclasses.fields(ReformerConfig)}
    own_fields = {field.name for field in dataclasses.fields(config)} - stock_fields
    fields = {k: v for k, v in config.to_dict().items() if k not in {*own_fields, "model_type"}}
    for name in ("local_num_chunks_after", "lsh_num_chunks_after", "pad_token_id"):
        fields[name] = fields[name] or 0  # which transformers has no None for
    stock = ReformerConfig(**fields)
    stock.architectures = ["ReformerModelWithLMHead"]
    return stock


def _missing_in_stock(config: ReformerHFConfig) -> tuple[list[str], list[str]]:
    """Fields that transformers has no equivalent for, and those that it computes differently."""
    unknown, different = [], []
    others = sorted(set(config.attn_layers) - {"local", "lsh"})
    if others:
        unknown.append(f"attn_layers has {', '.join(map(repr, others))}")
    if config.position_embedding_type in ("none", "rotary"):
        unknown.append(f"position_embedding_type={config.position_embedding_type!r}")
    names = ("conv_kernel", "use_qk_norm", "lsh_local_round", "lsh_next_values", "ngram_sizes")
    for name in (*names, "ff_sparsity", "ff_sru_size", "attention_sparsity", "lm_head_sparsity"):
        if getattr(config, name):
            unknown.append(f"{name}={getattr(config, name)!r}")
    if not config.attention_output_projection:
        unknown.append("attention_output_projection=False")
    if config.attention_scope != "chunk":
        different.append(
            f"attention_scope={config.attention_scope!r}, where queries see other keys than in "
            "transformers' 'chunk'"
        )
    if config.position_embedding_type == "axial" and len(config.axial_pos_shape) != 2:
        different.append(
            f"axial_pos_shape={config.axial_pos_shape!r}, of which it evaluates two axes only"
        )
    if "lsh" in config.attn_layers:
        if config.deduplicate_rounds:
            different.append("deduplicate_rounds=True")
        if config.hash_seed is not None and not config.share_rotations:
            different.append(
                f"share_rotations=False with hash_seed={config.hash_seed}, where it uses the same "
                "rotations in all layers"
            )
    return unknown, different


def _find_source(source: str | PathLike) -> Path:
    if Path(source).is_dir():
        return Path(source)
    try:
        patterns = ["*.json", "*.safetensors", "*.bin", *TOKENIZER_FILES]
        return Path(snapshot_download(str(source), allow_patterns=patterns))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise OSError(f"source {source}: no such folder, nor found on the Hub: {error}") from error


def _load_whole_model(folder: Path) -> ReformerHFForCausalLM:
    """Load a model all of whose weights are in the folder, and no others."""
    model, report = ReformerHFForCausalLM.from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True
    )
    problems = [
        f"{kind.removesuffix('_keys')}: {', '.join(map(str, sorted(report[kind])))}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report[kind]
    ]
    if problems:
        raise ValueError(
            f"the weights in {folder} do not fit its config.json as a causal language model "
            f"({'; '.join(problems)}): correct attn_layers and the sizes in config.json"
        )
    return model


def _save_stock(model: ReformerHFForCausalLM, config: ReformerConfig, folder: Path) -> None:
    config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def _check_weights(folder: Path, expected: dict[str, Tensor]) -> None:
    written: dict[str, Any] = load_file(folder / "model.safetensors")
    wrong = [name for name in expected if not torch.equal(written.pop(name), expected[name])]
    if wrong or written:
        raise OSError(f"read back from disk, these weights differ: {', '.join([*wrong, *written])}")


@contextmanager
def _written_whole(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its name once everything is in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}-unfinished-{secrets.token_hex(4)}")
    unfinished.mkdir()
    try:
        yield unfinished
        if target.exists():
            target.rmdir()
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise

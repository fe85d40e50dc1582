"""Which files of a folder go to the Hub, and whether a model can be loaded from them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from safetensors import SafetensorError, safe_open

from reformer_hf.hub.tokens import contains_token

CARD = "README.md"
CONFIGS = ("config.json", "adapter_config.json")
WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
)

TRAINING_STATE = (
    "checkpoint-*",
    "_broken-checkpoint-*",
    "step_*",
    "epoch_*",
    "custom_checkpoint_*",
    "optimizer*",
    "scheduler*",
    "scaler*",
    "rng_state*",
    "random_states_*",
    "trainer_state.json",
    "training_args.bin",  # holds the token if it was given as `hub_token`
    "seal.json",
    "*run_settings.json",  # may name folders of this machine
    "global_step*",
    "pytorch_model_fsdp*",
)
"""Only a run that goes on needs these, in any folder."""

LEFTOVERS = (".*", "__pycache__*", "*.incomplete", "*.tmp", "*.lock", "_images/*")
"""Hidden files, halves of files, and the images that a run was trained on, in any folder."""


def select_files(
    folder: Path, include_checkpoints: bool = False, ignore_patterns: Sequence[str] = ()
) -> dict[str, Path]:
    """Choose what goes to the Hub.

    Args:
        folder: what `save_pretrained` or the Trainer wrote.
        include_checkpoints: also checkpoints and the state of optimizer and Trainer.
        ignore_patterns: further names to leave out, as in `huggingface_hub`'s `upload_folder`.

    Returns:
        Name in the repository (with forward slashes) to path on this machine, in order.

    Raises:
        ValueError: if there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"folder={str(folder)!r}: there is no such folder")
    left_out = LEFTOVERS + (() if include_checkpoints else TRAINING_STATE)
    patterns = [*left_out, *(f"*/{pattern}" for pattern in left_out), *ignore_patterns]
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    chosen = filter_repo_objects(sorted(names), ignore_patterns=patterns)
    return {name: folder / name for name in chosen}


def check_files(folder: Path, files: Mapping[str, Path], token: str | None = None) -> None:
    """Check that a model can be loaded from these files, and that none of them holds a token.

    Args:
        folder: where they lie, for messages.
        files: as :func:`select_files` returns them.
        token: this token, besides all that looks like one.

    Raises:
        ValueError: naming the file that is missing or damaged, or holds a token.
    """
    if not any(name in files for name in CONFIGS):
        raise ValueError(
            f"{folder} has no config.json, so no model could be loaded from it: give a folder that "
            "save_pretrained or the Trainer wrote"
        )
    _check_weights(folder, files)
    _check_code(files)
    _check_card(files)
    if found := [name for name, path in files.items() if contains_token(path, token)]:
        raise ValueError(
            f"{', '.join(found)}: holds a token of the Hub, which everybody could read there. "
            "Remove it, or leave the file out with ignore_patterns (training_args.bin holds the "
            "`hub_token` of a run)"
        )


def describe_files(files: Mapping[str, Path]) -> str:
    """List names and sizes, for people."""
    sizes = {name: path.stat().st_size for name, path in files.items()}
    total = f"{sum(sizes.values()):,}"
    lines = [f"{size:>{len(total)},} bytes  {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{total} bytes in {len(files)} files"])


def _check_weights(folder: Path, files: Mapping[str, Path]) -> None:
    needed = {name for name in WEIGHTS if name in files}
    for index in [files[f"{name}.index.json"] for name in WEIGHTS if f"{name}.index.json" in files]:
        needed |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if not needed:
        raise ValueError(f"{folder} has no weights ({' or '.join(WEIGHTS)}): save the model there")
    if missing := sorted(needed - files.keys()):
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which the index of weights names")
    for name in sorted(needed):
        try:
            if name.endswith(".safetensors"):
                with safe_open(files[name], framework="pt"):
                    pass
            elif files[name].stat().st_size == 0:
                raise SafetensorError("empty file")
        except SafetensorError as error:
            raise ValueError(f"{files[name]} is damaged ({error}): save the model again") from error


def _check_code(files: Mapping[str, Path]) -> None:
    """Check that the code that `auto_map` names is there."""
    config = files.get("config.json")
    auto_map = json.loads(config.read_text(encoding="utf-8")).get("auto_map") if config else None
    named = [each for value in (auto_map or {}).values() for each in _as_list(value) if each]
    # `other/repository--file.Class` is code of another repository.
    modules = {reference.rpartition(".")[0] + ".py" for reference in named if "--" not in reference}
    if missing := sorted(modules - files.keys()):
        raise ValueError(
            f"{config}: auto_map names {', '.join(missing)}, which is not there. Remove auto_map, "
            "or add the code with scripts/export_remote_code.py"
        )


def _check_card(files: Mapping[str, Path]) -> None:
    if CARD in files:
        try:
            ModelCard.load(files[CARD])
        except Exception as error:  # YAML's errors have no common class with the others
            raise ValueError(f"{files[CARD]}: the metadata is not valid: {error}") from error


def _as_list(value: str | list[str | None]) -> list[str | None]:
    return [value] if isinstance(value, str) else value

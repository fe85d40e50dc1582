"""Which files of a folder go to the Hub, and whether a model can be loaded from them."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from safetensors import SafetensorError, safe_open

from reformer_hf.hub.tokens import Token, contains_token

CONFIGS = ("config.json", "adapter_config.json")
WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
CARD = "README.md"

TRAINING_STATE = (
    "checkpoint-*",
    "broken-checkpoint-*",
    "step_*",
    "epoch_*",
    "custom_checkpoint_*",
    "optimizer*",
    "scheduler*",
    "scaler*",
    "rng_state*",
    "random_states_*",
    "trainer_state.json",
    "training_args.bin",  # holds the token where it was given as `hub_token`
    "seal.json",
    "global_step*",
    "pytorch_model_fsdp*",
)
"""What only the continuation of a run needs, in any folder."""

LEFTOVERS = (".*", "__pycache__*", "*.incomplete", "*.tmp", "*.lock")
"""Hidden files and halves of files, in any folder."""


@dataclass(frozen=True)
class RepositoryFile:
    """A file that goes to the Hub.

    Attributes:
        name: in the repository, with forward slashes.
        path: on this machine.
        size: in bytes.
    """

    name: str
    path: Path
    size: int


def select_files(
    folder: Path, include_checkpoints: bool = False, ignore_patterns: Sequence[str] = ()
) -> list[RepositoryFile]:
    """Choose what goes to the Hub.

    Args:
        folder: what `save_pretrained` or the Trainer wrote.
        include_checkpoints: also checkpoints, the optimizer's and the Trainer's state.
        ignore_patterns: further names to leave out, as in `huggingface_hub`'s `upload_folder`.

    Returns:
        The files by name.

    Raises:
        ValueError: if the folder is not one.
    """
    if not folder.is_dir():
        raise ValueError(f"folder={str(folder)!r}: there is no such folder")
    left_out = LEFTOVERS + (() if include_checkpoints else TRAINING_STATE)
    patterns = [*left_out, *(f"*/{pattern}" for pattern in left_out), *ignore_patterns]
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [
        RepositoryFile(name, folder / name, (folder / name).stat().st_size)
        for name in filter_repo_objects(sorted(names), ignore_patterns=patterns)
    ]


def check_files(folder: Path, files: Sequence[RepositoryFile]) -> None:
    """Check that a model can be loaded from these files, as far as can be seen without loading it.

    Raises:
        ValueError: naming the file that is missing or damaged.
    """
    paths = {file.name: file.path for file in files}
    if not paths.keys() & set(CONFIGS):
        raise ValueError(
            f"{folder} has no config.json, so no model could be loaded from it: give a folder that "
            "save_pretrained or the Trainer wrote"
        )
    _check_weights(folder, paths)
    if "config.json" in paths:
        _check_code(paths["config.json"], paths)
    if CARD in paths:
        try:
            ModelCard.load(paths[CARD])
        except Exception as error:  # YAML's errors have no common class with the others
            raise ValueError(f"{paths[CARD]}: the metadata is not valid: {error}") from error


def check_secrets(files: Sequence[RepositoryFile], token: Token | None) -> None:
    """Check that no file holds a token.

    Raises:
        ValueError: naming the files.
    """
    found = [file.name for file in files if contains_token(file.path, token)]
    if found:
        raise ValueError(
            f"{', '.join(found)}: holds a token of the Hub, which everybody could read there. "
            "Remove it, or leave the file out with ignore_patterns (training_args.bin holds the "
            "`hub_token` of a run)"
        )


def describe_files(files: Sequence[RepositoryFile]) -> str:
    """List names and sizes, for people."""
    width = max(len(f"{file.size:,}") for file in files)
    lines = [f"{file.size:>{width},} bytes  {file.name}" for file in files]
    total = sum(file.size for file in files)
    return "\n".join([*lines, f"{total:,} bytes in {len(files)} files"])


def _check_weights(folder: Path, paths: dict[str, Path]) -> None:
    names = [name for name in WEIGHTS if name in paths]
    for index in INDICES:
        if index in paths:
            shards = json.loads(paths[index].read_text(encoding="utf-8"))["weight_map"].values()
            names += sorted(set(shards))
    if not names:
        raise ValueError(f"{folder} has no weights ({' or '.join(WEIGHTS)}): save the model there")
    missing = [name for name in names if name not in paths]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which the index of weights names")
    for name in names:
        try:
            if name.endswith(".safetensors"):
                with safe_open(paths[name], framework="pt"):
                    pass
            elif paths[name].stat().st_size == 0:
                raise SafetensorError("empty file")
        except SafetensorError as error:
            raise ValueError(f"{paths[name]} is damaged ({error}): save the model again") from error


def _check_code(config: Path, names: Collection[str]) -> None:
    """Check that the code that a configuration names is there."""
    auto_map = json.loads(config.read_text(encoding="utf-8")).get("auto_map") or {}
    references = [each for value in auto_map.values() for each in _as_list(value) if each]
    # `other/repository--file.Class` is code of another repository.
    modules = {ref.rpartition(".")[0] + ".py" for ref in references if "--" not in ref}
    if missing := sorted(modules - set(names)):
        raise ValueError(
            f"{config}: auto_map names {', '.join(missing)}, which is not there. Remove auto_map, "
            "or add the code with scripts/export_remote_code.py"
        )


def _as_list(value: str | list[str | None]) -> list[str | None]:
    return [value] if isinstance(value, str) else value

"""The arguments of a training: those of the quickstart, and what a run of the study changes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reformer_hf import ReformerHFConfig
from reformer_hf.training.build import parse_overrides
from reformer_hf.training.row_schedule import RowSchedule
from reformer_hf.training.settings_files import read_settings
from scripts.studies.learning.corpora import Corpus

_OWN = ("output_dir", "resume_from_checkpoint", "max_minutes", "max_steps", "eval_strategy")
_OWN += ("eval_steps", "save_steps", "save_total_limit", "validation_split_percentage", "seed")
"""Arguments of the quickstart that each run of the study has in its own way."""


@dataclass(frozen=True)
class Recipe:
    """Arguments of `train_clm.py`.

    Attributes:
        arguments: by name, as a settings file has them, without `config_overrides`.
        fields: of the model's configuration.
    """

    arguments: Mapping[str, Any]
    fields: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read a settings file such as the quickstart's.

        What each run has in its own way is left out. The size of a step is in `row_lengths` and
        `tokens_per_step`, so that any time can be filled with steps.

        Raises:
            OSError: if the file cannot be opened.
            ValueError: if it cannot be read, or has no `block_size`.
        """
        arguments = {k: v for k, v in read_settings(path).items() if k not in _OWN}
        if "block_size" not in arguments:
            raise ValueError(f"{path}: has no block_size, the context in tokens; give one")
        overrides = arguments.pop("config_overrides", None)
        fields = parse_overrides(overrides) if overrides else {}
        rows = int(arguments.pop("per_device_train_batch_size", 1))
        block = int(arguments["block_size"])
        arguments.setdefault("row_lengths", [block])
        arguments.setdefault("tokens_per_step", [rows * block])
        for name in ("row_lengths", "tokens_per_step"):
            arguments[name] = [int(value) for value in arguments[name]]
        return cls(arguments, fields)

    @property
    def block_size(self) -> int:
        """The context, tokens."""
        return int(self.arguments["block_size"])

    @property
    def layers(self) -> list[str]:
        """The kinds of the layers."""
        return list(self.config().attn_layers)

    def config(self) -> ReformerHFConfig:
        """The configuration of the model."""
        return ReformerHFConfig(**{"max_position_embeddings": self.block_size, **self.fields})

    def changed(self, arguments: Mapping[str, Any] | None = None, **fields: Any) -> "Recipe":
        """The recipe with other arguments, of which None is left out, and fields."""
        mixed = {**self.arguments, **(arguments or {})}
        kept = {name: value for name, value in mixed.items() if value is not None}
        return Recipe(kept, {**self.fields, **fields})

    def trains_as(self, other: "Recipe") -> bool:
        """Whether both mean the same, defaults included."""
        mine, its = self.config().to_dict(), other.config().to_dict()
        return mine == its and dict(self.arguments) == dict(other.arguments)

    def steps_for(self, tokens: int) -> int:
        """Steps that read so many tokens, as nearly as whole steps can."""
        schedule = RowSchedule(self.arguments["row_lengths"], self.arguments["tokens_per_step"], 1)
        return schedule.steps_for(tokens)

    def settings(self, corpus: Corpus, seed: int, **budget: Any) -> dict[str, Any]:
        """A settings file for one run.

        Args:
            corpus: what is read.
            seed: of weights, order and hashing.
            **budget: `max_steps` or `max_minutes`.
        """
        overrides = ",".join(f"{name}={json.dumps(v)}" for name, v in self.fields.items())
        return {
            **self.arguments,
            "config_overrides": overrides,
            "train_file": str(corpus.train.absolute()),
            "validation_file": str(corpus.held_out.absolute()),
            "do_train": True,
            "do_eval": True,
            "seed": seed,
            "baselines": False,
            "save_strategy": "no",
            "eval_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **budget,
        }

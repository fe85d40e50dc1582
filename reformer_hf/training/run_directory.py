"""The folder of a run, and whether it may be continued."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reformer_hf.training.storage import write_json


@dataclass(frozen=True)
class RunDirectory:
    """Names of what a run writes.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def settings(self) -> Path:
        """What decides the result: corpus, model and optimisation, as JSON."""
        return self.path / "settings.json"

    @property
    def corpus(self) -> Path:
        """Token ids of the corpus."""
        return self.path / "corpus"

    @property
    def checkpoints(self) -> Path:
        """The Trainer's output folder."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The finished model with its card, curve and metrics; appears at once, at the end."""
        return self.path / "model"

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.model.exists()

    def claim(self, settings: Mapping, started: bool) -> None:
        """Record the settings of a run that starts, or check those of one that goes on.

        Args:
            settings: JSON values that decide the result.
            started: whether the folder holds work that a change of settings would spoil.

        Raises:
            ValueError: if the folder holds the work of a run with other settings.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        settings = json.loads(json.dumps(settings))
        if not started:
            write_json(self.settings, settings)
            return
        try:
            recorded = json.loads(self.settings.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"output_dir={self.path}: holds a run, but {self.settings.name} cannot be read "
                f"({error}); {self.how_to_start_anew()}"
            ) from error
        differences = "; ".join(_differences(recorded, settings))
        if differences:
            raise ValueError(
                f"output_dir={self.path}: holds a run with other settings ({differences}). "
                f"Give the old ones to go on with it. {self.how_to_start_anew()}"
            )

    def how_to_start_anew(self) -> str:
        """One sentence for messages."""
        return f"To start anew, delete {self.path} or choose another --output_dir"


def _differences(old: object, new: object, name: str = "") -> Iterator[str]:
    """List the values that differ between two nested dictionaries, by dotted name."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(
                old.get(key), new.get(key), f"{name}.{key}" if name else str(key)
            )
    elif old != new:
        yield f"{name} was {old!r}, now {new!r}"

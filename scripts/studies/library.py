"""What studies share: the source of this Python's standard library as text, and a random model."""

import sys
import sysconfig
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor
from transformers import set_seed

from reformer_hf import ReformerHFConfig, ReformerHFForCausalLM
from reformer_hf.training.data.bytes import ByteRows

DESCRIPTION = f"the source of Python {sys.version.split()[0]}'s standard library"


def join_standard_library(path: Path, size: int | None = None) -> Path:
    """Write the modules one behind the other, in the order of their names; returns the path.

    Args:
        path: the file to write.
        size: end behind the module that reaches so many bytes, and begin again if there are fewer;
            None for all modules once.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = {file.relative_to(root): file for file in root.rglob("*.py")}
    names = sorted(name for name in files if not {"site-packages", "dist-packages"} & {*name.parts})
    with path.open("wb") as joined:
        for name in names if size is None else cycle(names):
            joined.write(files[name].read_bytes())
            if size is not None and joined.tell() >= size:
                break
    return path


def read_ids(count: int, text_file: str | None = None) -> Tensor:
    """The first bytes of a file, or else of the standard library, as token ids (1, count)."""
    with TemporaryDirectory() as folder:
        path = Path(text_file) if text_file else join_standard_library(Path(folder, "text"), count)
        return ByteRows([path], count)[0]["input_ids"][None]


def random_model(**fields: Any) -> ReformerHFForCausalLM:
    """A small byte-level model with random weights, always the same; `fields` configure it."""
    set_seed(0)
    sizes = {"feed_forward_size": 512, "num_hashes": 4, "axial_pos_embds_dim": [64, 192]}
    return ReformerHFForCausalLM(ReformerHFConfig(**sizes, **fields))

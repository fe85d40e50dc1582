"""What runs of the training scripts do without in the tests: a drawn curve and a wait for the disk.

A picture of a curve takes longer than the training of a tiny model; `tests/training/test_plots.py`
draws some. Nobody cuts the power, so files need not be on the disk.
"""

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a4944415478da6368000000820081da45083b0000000049454e44ae426082"
)
"""A picture, of one grey point."""


def leave_a_pixel(
    rows: Sequence[Mapping], unit: str, path: Path, references: Mapping[str, float], title: str
) -> None:
    """Stands in for `plot_loss_curve`."""
    assert isinstance(title, str) and all(value >= 0 for value in references.values()), references
    for row in rows:
        assert row["step"] >= 0 and {f"{name}_bits_per_{unit}" for name in ("train", "eval")} <= {
            *row
        }
    path.write_bytes(PIXEL)


def install() -> None:
    """Draw no curves, wait for no disk, and search what is there now for garbage no more."""
    os.fsync = lambda descriptor: None
    if "reformer_hf.training.plots" in sys.modules:
        sys.modules["reformer_hf.training.plots"].plot_loss_curve = leave_a_pixel  # type: ignore
    set_aside()


def set_aside() -> None:
    """Take what imports have left out of each later collection of garbage: there is a lot of it."""
    gc.collect()
    gc.freeze()

"""Set-up of all tests: checked tensor shapes, no network, fixed seeds."""

import os
import random
import sys

# Before transformers is imported, which reads them once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests import checked_shapes, quick_runs

if any(name.split(".")[0] == "reformer_hf" for name in sys.modules):
    raise RuntimeError("reformer_hf is imported already: its shape annotations go unchecked.")
checked_shapes.install()

# The default run is the same each time; --hypothesis-profile=explore looks for new examples.
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def fresh_shape_checks() -> None:
    """What one file of tests has checked counts in no other, nor does what it imported."""
    checked_shapes.passed.clear()
    quick_runs.set_aside()


def pytest_collection_finish() -> None:
    """Let the runs of the scripts be quick, when they are imported."""
    quick_runs.install()

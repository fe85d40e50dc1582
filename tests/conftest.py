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
from jaxtyping import install_import_hook

if any(name.split(".")[0] == "reformer_hf" for name in sys.modules):
    raise RuntimeError("reformer_hf is imported already: its shape annotations go unchecked.")
install_import_hook(["reformer_hf.ops", "reformer_hf.nn"], "beartype.beartype")

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

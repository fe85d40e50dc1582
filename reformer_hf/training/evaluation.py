"""Held-out bits per byte, of a model and of general compressors."""

import bz2
import gzip
import math
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from reformer_hf.training.data import bytes_of


@dataclass(frozen=True)
class HeldOutScore:
    """Bits per byte on held-out text, and what they were measured on.

    Every window is scored on its own, so its first bytes have little context and its very first
    has none and is not scored. Ends of documents are scored, and their bits charged to the bytes.
    """

    bits_per_byte: float
    gzip_9_bits_per_byte: float
    bz2_9_bits_per_byte: float
    uniform_bits_per_byte: float
    bytes_scored: int
    windows: int
    context: int
    windows_overlap: bool = False

    def references(self) -> dict[str, float]:
        """What the model is compared with, by name."""
        return {
            "uniform": self.uniform_bits_per_byte,
            "gzip -9": self.gzip_9_bits_per_byte,
            "bz2 -9": self.bz2_9_bits_per_byte,
        }


def score_held_out(model: PreTrainedModel, windows: Dataset, batch_size: int = 1) -> HeldOutScore:
    """Measure bits per byte, in eval mode, weighted by token, each byte counted once.

    Args:
        model: a causal language model over byte ids.
        windows: windows of ids that do not overlap, all of one length.
        batch_size: windows in a forward pass.

    Returns:
        The model's score, and those of gzip -9, bz2 -9 and a uniform distribution on the same
        bytes, joined into one stream.
    """
    was_training = model.training
    model.eval()
    nats, content, context = 0.0, bytearray(), 0
    for batch in tqdm(DataLoader(windows, batch_size), desc="held-out text"):
        context = batch["input_ids"].shape[1]
        targets = batch["input_ids"][:, 1:]
        with torch.no_grad():
            loss = model(**{name: ids.to(model.device) for name, ids in batch.items()}).loss
        nats += float(loss) * targets.numel()
        content += bytes_of(targets)
    model.train(was_training)
    return HeldOutScore(
        nats / math.log(2) / len(content),
        *compressor_scores(bytes(content)),
        bytes_scored=len(content),
        windows=len(windows),  # type: ignore[arg-type]
        context=context,
    )


def compressor_scores(content: bytes) -> tuple[float, float, float]:
    """Bits per byte of gzip -9 and bz2 -9, headers included, and of a uniform distribution."""
    compressed = (gzip.compress(content, 9, mtime=0), bz2.compress(content, 9), content)
    gzip_9, bz2_9, uniform = (8 * len(code) / len(content) for code in compressed)
    return gzip_9, bz2_9, uniform

"""Bits per dim of images without a model: counts of bytes, and compressors."""

import numpy as np

from reformer_hf.training.baselines import compressor_scores
from reformer_hf.training.data.images import png_size
from reformer_hf.training.references import COMPRESSING, NOTHING, Reference

SAMPLE_BYTES = 32 << 20
"""Of the training images that are counted."""


def image_references(train: np.ndarray, held_out: np.ndarray) -> list[Reference]:
    """Measure bits per dim of images without a model.

    Counts of bytes are those of the training images, each plus one. Counts after the byte to the
    left of the same channel are smoothed towards them as Witten and Bell do.

    Args:
        train: uint8, (images, height, width, channels).
        held_out: the same, to be measured.
    """
    step = -(-train.size // SAMPLE_BYTES)
    sample = train[::step]
    counted = {"train_samples": len(sample), "train_bytes": sample.size}
    nats = np.zeros(2)
    for channel in range(train.shape[-1]):
        nats += _channel_nats(sample[..., channel], held_out[..., channel])
    by_byte, by_left = nats / np.log(2) / held_out.size
    png = 8 * sum(map(png_size, held_out)) / held_out.size
    compressed = compressor_scores(held_out.tobytes())
    compressed = {"PNG": png} | {name: compressed[name] for name in ("gzip -9", "bz2 -9")}
    return [
        Reference("uniform", {"bits_per_dim": 8.0}, NOTHING),
        Reference("bytes", {"bits_per_dim": float(by_byte), **counted}),
        Reference("bytes after the left one", {"bits_per_dim": float(by_left), **counted}),
        *(Reference(n, {"bits_per_dim": bits}, COMPRESSING) for n, bits in compressed.items()),
    ]


def _channel_nats(train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Nats of a channel, (images, height, width): by counts of bytes, and of bytes after others."""
    after = _count_after(train)
    alone = after.sum(axis=0) + 1
    alone = alone / alone.sum()
    kinds = (after > 0).sum(axis=1, keepdims=True)
    share = (after + kinds * alone) / np.maximum(after.sum(axis=1, keepdims=True) + kinds, 1)
    share = np.where(kinds > 0, share, alone)
    seen = _count_after(held_out)
    return -np.array([(seen.sum(axis=0) * np.log(alone)).sum(), (seen * np.log(share)).sum()])


def _count_after(pixels: np.ndarray) -> np.ndarray:
    """Count bytes by the one to their left, (257, 256); 256 stands left of the first column."""
    left = np.pad(pixels[:, :, :-1].astype(np.int64), ((0, 0), (0, 0), (1, 0)), constant_values=256)
    return np.bincount((left * 256 + pixels).ravel(), minlength=257 * 256).reshape(257, 256)

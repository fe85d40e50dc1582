"""What bits per byte are compared with: counts of bytes, and compressors."""

import bz2
import zlib

import numpy as np


class Baselines:
    """What simple methods need for a text that comes piece by piece, in little memory.

    The bits of single bytes and of pairs are those of the text's own counts, whose price is left
    out; compressors pay for all.
    """

    def __init__(self) -> None:
        self.size = self._gzip_size = self._bz2_size = 0
        self._pairs, self._last = np.zeros((257, 256), np.int64), 256  # 256: the text begins
        self._gzip = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
        self._bz2 = bz2.BZ2Compressor(9)

    def update(self, content: bytes) -> None:
        """Add a piece."""
        if not content:
            return
        codes = np.frombuffer(content, np.uint8).astype(np.int64)
        before = np.concatenate([[self._last], codes[:-1]])
        self._pairs += np.bincount(before * 256 + codes, minlength=257 * 256).reshape(257, 256)
        self._last = int(codes[-1])
        self.size += len(content)
        self._gzip_size += len(self._gzip.compress(content))
        self._bz2_size += len(self._bz2.compress(content))

    def bits_per_byte(self) -> dict[str, float]:
        """Bits per byte by name, once all pieces are there; nothing for no text."""
        if not self.size:
            return {}
        gzip_size = self._gzip_size + len(self._gzip.flush())
        bz2_size = self._bz2_size + len(self._bz2.flush())
        return {
            "uniform": 8.0,
            "single bytes": _bits(self._pairs.sum(axis=0, keepdims=True)) / self.size,
            "pairs of bytes": _bits(self._pairs) / self.size,
            "gzip -9": 8 * gzip_size / self.size,
            "bz2 -9": 8 * bz2_size / self.size,
        }


def _bits(counts: np.ndarray) -> float:
    """Bits of events by their share in each row, (rows, events)."""
    totals = counts.sum(axis=1, keepdims=True)
    seen = counts > 0
    shares = counts[seen] / np.broadcast_to(totals, counts.shape)[seen]
    return float(-(counts[seen] * np.log2(shares)).sum()) + 0.0


def compressor_scores(content: bytes) -> dict[str, float]:
    """Bits per byte of gzip -9 and bz2 -9, headers included, and of a uniform distribution."""
    baselines = Baselines()
    baselines.update(content)
    found = baselines.bits_per_byte()
    return {name: found[name] for name in ("gzip -9", "bz2 -9", "uniform")}

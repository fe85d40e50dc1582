"""Tables for the terminal."""

from collections.abc import Sequence
from typing import Any


def aligned(rows: Sequence[Sequence[Any]]) -> str:
    """Align the columns of a table: the first to the left, others to the right.

    Args:
        rows: of equal length; fractions get four digits, None nothing.
    """
    cells = [[_text(each) for each in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)

"""Checks of arguments: each error names the argument, its value and the fix.

Wrong types raise `TypeError`, wrong values `ValueError`.
"""

from typing import Any, get_args


def require_ints(least: int, **arguments: Any) -> None:
    """Demand ints that are not too small.

    >>> require_ints(1, heads=4) is None
    True
    """
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name}={value!r}: give an int of at least {least}")
        if not least <= value < 2**63:
            raise ValueError(f"{name}={value}: give an int of at least {least} and below 2**63")


def require_bools(**arguments: Any) -> None:
    """Demand True or False.

    >>> require_bools(causal=True) is None
    True
    """
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name}={value!r}: give True or False")


def require_choice(literal: Any, **arguments: Any) -> None:
    """Demand one of the values of a `Literal`.

    >>> from typing import Literal
    >>> require_choice(Literal["band", "chunk"], scope="band") is None
    True
    """
    choices = get_args(literal)
    for name, value in arguments.items():
        if value not in choices:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(repr, choices))}")

"""What a planted fault is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A fault: `before`, which occurs once in `file`, becomes `after`."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

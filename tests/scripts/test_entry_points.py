"""What can be run says how; what cannot be run does nothing."""

from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
ENTRY_POINTS = {
    "benchmarks.generation.__main__",
    "benchmarks.gpu.__main__",
    "benchmarks.sequence_parallel.__main__",
    "benchmarks.sparse.__main__",
    "benchmarks.swapping.__main__",
    "benchmarks.training.__main__",
    "benchmarks.training.depth",
    "benchmarks.training.earlier",
    "studies.bucket_flips",
    "studies.cached_difference",
    "studies.classification.__main__",
    "studies.learning.__main__",
    "studies.million.__main__",
    "studies.million.alive",
    "studies.quantisation",
    "studies.recall.__main__",
    "studies.reproduce.__main__",
    "studies.scopes",
    "tools.check_mutations",
    "tools.draw_lsh_round",
}


@pytest.mark.parametrize("name", sorted(ENTRY_POINTS))
def test_it_says_how_it_is_run(name, capsys):
    module = import_module(f"scripts.{name}")
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert f"usage: python -m scripts.{name.removesuffix('.__main__')} " in printed
    assert module.__doc__.splitlines()[0] in printed


def test_nothing_else_can_be_run():
    sources = {}
    for folder in ("benchmarks", "studies", "tools"):
        for file in (SCRIPTS / folder).rglob("*.py"):
            name = ".".join(file.relative_to(SCRIPTS).with_suffix("").parts)
            sources[name] = file.read_text(encoding="utf-8")
    assert {name for name, text in sources.items() if "__name__ ==" in text} == ENTRY_POINTS
    assert {name for name, text in sources.items() if "\ndef main(" in text} == ENTRY_POINTS

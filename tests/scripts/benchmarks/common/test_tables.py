"""Medians, ranges and pairs of repeats."""

from scripts.benchmarks.common.tables import Repeats, length_table, short, spread


def test_a_spread():
    assert spread([]) == "-"
    assert spread([1.0]) == "1.00"
    assert spread([3.0, 1.0, 1.5]) == "1.50 (1.00 to 3.00)"


def test_lengths_are_short():
    lines = length_table([512, 2048], [("double", lambda length: str(2 * length))], "tokens")
    assert lines == ["| tokens | 512 | 2K |", "| --- | --- | --- |", "| double | 1024 | 4096 |", ""]
    assert short(1000) == "1000"


def test_runs_are_paired_by_repeat():
    def run(name, repeat, value, **changes):
        return {"name": name, "repeat": repeat, "value": value, "disturbed": False, **changes}

    runs = [
        run("slow", 0, 6.0),
        run("slow", 1, 8.0),
        run("fast", 1, 2.0),
        run("fast", 0, 3.0, disturbed=True),
        {"name": "slow", "repeat": 2, "error": "no luck"},
    ]
    repeats = Repeats(runs, lambda run: run["name"])
    assert repeats.cases == {"slow", "fast"}
    assert repeats.per_repeat("slow", lambda run: run["value"]) == {0: 6.0, 1: 8.0}
    assert repeats.paired("slow", "fast", lambda run: run["value"]) == [4.0]
    assert (len(repeats.failed), len(repeats.disturbed)) == (1, 1)

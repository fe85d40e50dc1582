"""Runs are done once, again where disturbed, and gone on with by the next call."""

import json

import pytest

from scripts.benchmarks.common.runs import Planned, Record, least_disturbed


@pytest.mark.parametrize(
    ("waiting", "attempts", "kept", "disturbed"),
    [
        ([0.9, 0.5, 0.7, 0.1], 3, 1, True),
        ([0.9, 0.2, 0.1], 3, 1, False),
        ([0.2, 0.1], 3, 0, False),
        ([0.9, 0.2], 1, 0, True),
        ([None, 0.1], 3, 0, False),
    ],
)
def test_a_disturbed_run_is_done_again(waiting, attempts, kept, disturbed):
    results = iter([{"waiting": w, "attempt": i} for i, w in enumerate(waiting)])
    result = least_disturbed(lambda: next(results), attempts, max_waiting=0.3)
    assert (result["attempt"], result["disturbed"]) == (kept, disturbed)


def test_a_failed_run_is_not_done_again():
    results = iter([{"waiting": 0.9}, {"error": "no luck"}, {"waiting": 0.0}])
    assert least_disturbed(lambda: next(results), 3, max_waiting=0.3) == {"error": "no luck"}


def test_what_is_done_and_what_has_failed(tmp_path, capsys):
    def record(**settings):
        header = {"settings": settings}
        return Record(tmp_path, header, lambda header, runs: f"{len(runs)} runs")

    def planned(name, repeat, result):
        done.append((name, repeat))
        return Planned({"name": name, "repeat": repeat}, name, lambda: result, {"rows": 3})

    done = []
    works, fails = {"seconds": 1.0}, {"error": "no luck"}
    first = record(steps=2)
    plan = [planned(n, i, r) for i in (0, 1) for n, r in (("good", works), ("bad", fails))]
    first.do_missing(plan)
    assert [(run["name"], run["repeat"]) for run in first.runs] == [
        ("good", 0),
        ("bad", 0),  # and its second repeat is left out
        ("good", 1),
    ]
    assert first.runs[0] == {"name": "good", "repeat": 0, "rows": 3, "seconds": 1.0}
    assert first.conclude() == 1
    assert capsys.readouterr().err.count("bad: no luck") == 1
    second = record(steps=2)
    assert second.runs == [first.runs[0], first.runs[2]]
    second.do_missing([one._replace(attempt=lambda: works) for one in plan])
    assert len(second.runs) == 4 and second.conclude() == 0
    assert (tmp_path / "results.md").read_text() == "4 runs"
    assert len(json.loads((tmp_path / "results.json").read_text())["runs"]) == 4
    with pytest.raises(ValueError, match=r"runs with other \['steps'\]: choose another output_dir"):
        record(steps=3)

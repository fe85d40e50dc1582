"""The file of reasons, and that a run without a reason, or with one for nothing, is an error."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.conformance.reasons import Reason, ReasonsPlugin, is_adapted, read_reasons


def reasons() -> list[Reason]:
    return [
        Reason("machine", "needs .*", "a GPU"),
        Reason("skipped", "no rope", "positions are axial"),
        Reason("failing", r".*\.test_tied", "both streams are read"),
        Reason("adapted", r"TestA\.test_names", "ours are those of the model"),
        Reason("skipped", "no beams", "by design", needs="generation"),
    ]


def report(test: str, message: str = "", **fields: Any) -> Any:
    longrepr = ("file.py", 1, f"Skipped: {message}") if message else None
    return SimpleNamespace(
        **{
            "nodeid": f"test_x.py::TestA::{test}",
            "user_properties": [],
            "skipped": bool(message),
            "longrepr": longrepr,
            **fields,
        }
    )


def run(folder: Any, *reports: Any, complete: bool = True) -> ReasonsPlugin:
    plugin = ReasonsPlugin(reasons(), folder, complete)
    for each in reports:
        plugin.pytest_runtest_logreport(each)
    return plugin


def exit_status(plugin: ReasonsPlugin) -> int:
    session: Any = SimpleNamespace(exitstatus=0)
    plugin.pytest_sessionfinish(session, 0)
    return session.exitstatus


ALL = (
    report("test_rope", "no rope"),
    report("test_tied", skipped=True, wasxfail="both streams are read"),
    report("test_names", user_properties=[("adapted", True)]),
)


def test_a_run_with_a_reason_for_everything_passes(tmp_path):
    assert exit_status(run(tmp_path, *ALL, report("test_other"))) == 0


@pytest.mark.parametrize(
    "another",
    [
        report("test_x", "no rope at all"),
        report("test_x", user_properties=[("adapted", True)]),
    ],
    ids=["skip", "adaptation"],
)
def test_something_without_a_reason_is_an_error(another, tmp_path):
    plugin = run(tmp_path, *ALL, another)
    assert len(plugin.unexplained) == 1 and "TestA.test_x" in plugin.unexplained.pop()
    plugin = run(tmp_path, *ALL, another)
    assert exit_status(plugin) == 1


@pytest.mark.parametrize("missing", range(3))
def test_a_reason_for_nothing_is_an_error_if_all_tests_have_run(missing, tmp_path):
    rest = [each for index, each in enumerate(ALL) if index != missing]
    plugin = run(tmp_path, *rest)
    assert len(plugin.stale()) == 1 and exit_status(plugin) == 1
    assert exit_status(run(tmp_path, *rest, complete=False)) == 0


def test_a_reason_may_need_a_folder_that_is_not_there(tmp_path):
    assert not run(tmp_path, *ALL).stale()
    (tmp_path / "generation").mkdir()
    assert ["no beams" in problem for problem in run(tmp_path, *ALL).stale()] == [True]


def test_what_replaces_a_test_of_a_suite_is_adapted():
    class Suite:
        def test_one(self) -> None: ...

        def test_two(self) -> None: ...

    # As if they came from another folder.
    for name in ("test_one", "test_two"):
        function = vars(Suite)[name]
        function.__code__ = function.__code__.replace(co_filename="/elsewhere/suite.py")

    class TestA(Suite):
        def test_two(self) -> None: ...

        def test_three(self) -> None: ...

    def adapted(name: str) -> bool:
        item: Any = SimpleNamespace(cls=TestA, name=name)
        return is_adapted(item)

    assert [adapted(f"test_{name}") for name in ("one", "two", "three")] == [False, True, False]


def test_the_file_can_be_read(tmp_path):
    assert all(reason.match and reason.reason for reason in read_reasons())
    broken = tmp_path / "reasons.yaml"
    broken.write_text("skipped: [{match: x}]")
    with pytest.raises(ValueError, match="needs `match` and `reason`"):
        read_reasons(broken)
    broken.write_text("other: []")
    with pytest.raises(ValueError, match=r"sections \['other'\]"):
        read_reasons(broken)

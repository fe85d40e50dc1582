"""Why a test of transformers' suites is skipped, fails or is another one here: `reasons.yaml`."""

import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).resolve().with_name("reasons.yaml")

KINDS = ("machine", "skipped", "failing", "adapted")
"""Sections of the file. The first depends on the machine, so none of its entries need apply."""


@dataclass
class Reason:
    """An entry of the file.

    Attributes:
        kind: its section.
        match: a regular expression for the whole of what the suite says when it skips, or of
            `Class.test` for tests that fail or are adapted.
        reason: why.
        needs: a folder of transformers' tests that a source distribution lacks.
        tests: those that it explains.
    """

    kind: str
    match: str
    reason: str
    needs: str = ""
    tests: set[str] = field(default_factory=set)


def read_reasons(file: Path = FILE) -> list[Reason]:
    """Read the file.

    Raises:
        ValueError: if a section is unknown, or an entry has no pattern or no reason.
    """
    content: dict[str, list[dict[str, str]]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    if unknown := content.keys() - {*KINDS}:
        raise ValueError(f"{file.name} has sections {sorted(unknown)}: known are {KINDS}")
    try:
        return [Reason(kind, **entry) for kind, entries in content.items() for entry in entries]
    except TypeError as error:
        raise ValueError(f"{file.name}: an entry needs `match` and `reason` ({error})") from error


class ReasonsPlugin:
    """Ends a run with an error where a reason is missing, or one applies to nothing.

    Args:
        reasons: of the file.
        folder: of transformers' tests.
        complete: whether all tests run; else none of the reasons need apply.
    """

    def __init__(self, reasons: list[Reason], folder: Path, complete: bool):
        self.reasons = reasons
        self.folder = folder
        self.complete = complete
        self.unexplained: set[str] = set()

    def explain(self, kinds: tuple[str, ...], text: str, test: str) -> Reason | None:
        """The reason for a text, which is noted to be in use.

        Args:
            kinds: sections to look in.
            text: the suite's message, or the name of the test.
            test: the name of the test.
        """
        for reason in self.reasons:
            if reason.kind in kinds and re.fullmatch(reason.match, text, re.DOTALL):
                reason.tests.add(test)
                return reason
        return None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Expect the failures that have a reason, and mark tests that are adapted."""
        for item in items:
            if reason := self.explain(("failing",), _name(item.nodeid), item.nodeid):
                item.add_marker(pytest.mark.xfail(reason=reason.reason, strict=True))
            if is_adapted(item):
                item.user_properties.append(("adapted", True))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look for the reason of a skip, of a failure and of an adaptation."""
        name = _name(report.nodeid)
        if ("adapted", True) in report.user_properties:
            self.require(("adapted",), name, report.nodeid, f"{name} is adapted")
        if hasattr(report, "wasxfail"):
            self.explain(("failing",), name, report.nodeid)
        elif report.skipped and isinstance(report.longrepr, tuple):
            message = report.longrepr[2].removeprefix("Skipped: ")
            kinds = ("machine", "skipped")
            self.require(kinds, message, report.nodeid, f"{name} is skipped: {message}")

    def require(self, kinds: tuple[str, ...], text: str, test: str, problem: str) -> None:
        """Note a problem that has no reason; for the others see `explain`."""
        if not self.explain(kinds, text, test):
            self.unexplained.add(problem)

    def stale(self) -> list[str]:
        """Entries that apply to nothing, though all tests have run."""
        return [
            f"{reason.kind}: {reason.match} applies to nothing"
            for reason in self.reasons
            if self.complete
            and not reason.tests
            and reason.kind != "machine"
            and (self.folder / reason.needs).exists()
        ]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail."""
        if exitstatus == pytest.ExitCode.OK and (self.unexplained or self.stale()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show how many tests each reason explains, and what has none."""
        write = terminalreporter.write_line
        terminalreporter.section("reasons")
        for reason in self.reasons:
            if reason.tests:
                write(f"{len(reason.tests):4} {reason.kind}: {reason.reason}")
        for problem in [*sorted(self.unexplained), *self.stale()]:
            write(f"ERROR reasons.yaml: {problem}", red=True)


def _name(nodeid: str) -> str:
    """`Class.test` of a test's identifier."""
    return ".".join(nodeid.split("::")[1:])


def is_adapted(item: pytest.Item) -> bool:
    """Whether a test of a suite is replaced by one of this folder."""
    test_class, name = getattr(item, "cls", None), item.name
    if test_class is None:
        return False
    ours = [_is_ours(vars(c)[name]) for c in test_class.__mro__ if name in vars(c)]
    return ours[0] and not all(ours)


def _is_ours(test: Any) -> bool:
    # The suites wrap each test in another function.
    code = getattr(inspect.unwrap(test), "__code__", None)
    return code is not None and Path(code.co_filename).resolve().is_relative_to(FILE.parent)

"""The comparison with an earlier commit: its package as it was, runs in turn, ratios of turns."""

import os
import subprocess

import pytest
import torch

from scripts.benchmarks.common.processes import answering
from scripts.benchmarks.training import alone
from scripts.benchmarks.training import earlier as benchmark
from scripts.benchmarks.training.earlier import (
    HERE,
    EarlierArguments,
    EarlierCase,
    extract_package,
    main,
    render,
)
from tests.scripts.benchmarks.tiny import TINY, rendered_and_written, results_of, words_of


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A tree of two commits; its package has a file in the first, another text in the second."""
    root = tmp_path / "root"
    (root / "reformer_hf").mkdir(parents=True)
    git = ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    for text in ("old", "new"):
        (root / "reformer_hf" / "file.py").write_text(text)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", text], check=True)
    monkeypatch.setattr(benchmark, "ROOT", root)
    return root


def test_the_package_is_that_of_the_commit(repository, tmp_path):
    name = extract_package("HEAD~1", tmp_path / "code")
    assert (tmp_path / "code" / "reformer_hf" / "file.py").read_text() == "old"
    (tmp_path / "code" / "reformer_hf" / "other.py").touch()
    extract_package("HEAD~1", tmp_path / "code")
    assert len(list((tmp_path / "code" / "reformer_hf").iterdir())) == 1
    assert len(name) >= 7
    with pytest.raises(ValueError, match="commit=HEAD~9: git does not know it"):
        extract_package("HEAD~9", tmp_path / "code")


def test_a_commit_without_the_package_is_refused(repository, tmp_path):
    git = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run([*git, "mv", "reformer_hf", "other"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "moved"], check=True)
    with pytest.raises(ValueError, match="commit=HEAD has no folder reformer_hf"):
        extract_package("HEAD", tmp_path / "code")


class Here:
    """Stands for a process, and answers in this one."""

    def __init__(self, words, environment, timeout):
        assert words == ["-P", "-c", benchmark.CHILD, alone.__file__]
        self.name = environment["PYTHONPATH"], "THP_MEM_ALLOC_ENABLE" in environment
        self.step = None

    def ask(self, question):
        if self.step is None:
            assert question["fields"]["attn_layers"] == ["local", "lsh", "local"]
            self.step = alone.make_step(question)
            return "ready"
        taken.append(self.name)
        return self.step()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


taken: list[tuple[str, bool]] = []


def test_tiny_runs_take_turns_and_are_gone_on_with(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "answering", Here)
    taken.clear()
    threads = torch.get_num_threads()
    sizes = {"commit": "HEAD~1", "output_dir": tmp_path / "out", "lengths": 64, "depths": 3}
    sizes |= {"repeats": 2, "steps": 3, "warmup": 1, "num_threads": threads}
    words = words_of(sizes | TINY)
    assert main(words) == 0
    earlier, here = str(tmp_path / "out" / "code"), str(repository)
    turn = [(earlier, False), (here, False), (here, True)]
    assert taken == 2 * (2 * (turn + turn[::-1]))
    for run in results_of(tmp_path / "out")["runs"]:
        assert [len(code["seconds"]) for code in run["codes"]] == [3, 3, 3]  # without the warmup
        assert all(code["peak_bytes"] > 0 for code in run["codes"])
    assert main(words) == 0 and len(taken) == 24


def test_a_child_steps_when_it_is_asked(tmp_path):
    """And what the package prints is no answer."""
    file = tmp_path / "alone.py"
    file.write_text("def make_step(request):\n    print('hello')\n    return lambda: request\n")
    with answering(["-P", "-c", benchmark.CHILD, str(file)], os.environ, 60) as child:
        assert child.ask({"length": 5}) == "ready"
        assert child.ask("step") == child.ask("step") == {"length": 5}


def test_a_child_that_fails_is_an_error(repository, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "CHILD", "raise ValueError('no step')")
    monkeypatch.setattr(benchmark, "allocator_environment", lambda *_: dict(os.environ))
    sizes = {"commit": "HEAD~1", "output_dir": tmp_path / "out", "lengths": 64, "repeats": 1}
    assert main(words_of(sizes | TINY)) == 1
    assert "ValueError: no step" in capsys.readouterr().out


def test_a_child_imports_nothing_but_the_package():
    text = benchmark.ALONE.read_text(encoding="utf-8")
    assert "scripts" not in [
        line.split()[1].split(".")[0]
        for line in text.splitlines()
        if line.startswith(("import", "from"))
    ]


def test_ratios_are_of_turns():
    """In the second run a turn was slow, and another only for the codes that are compared."""
    runs = []
    disturbed = [60.0, 1.0, 3.0], [60.0, 1.0, 30.0]
    for repeat, (earlier, mine) in enumerate([([1.0] * 3, [1.0] * 3), disturbed]):
        seconds = ((2.0, earlier), (1.5, mine), (1.0 + repeat, mine))
        codes = [
            {"seconds": [factor * each for factor in scale], "peak_bytes": 5e8}
            for each, scale in seconds
        ]
        case = EarlierCase(1024, "float32", 4)._asdict()
        runs.append({**case, "repeat": repeat, "codes": codes})
    machine = {"date": "2020-01-01", "processor": "p", "torch_threads": 1}
    machine["versions"] = {"torch": "1", "transformers": "1"}
    header = {"machine": machine, "summary": "", "settings": {"commit": "abc1234"}}
    rows = [line for line in render(header, runs).splitlines() if line.startswith("| 1K")]
    assert [row.split(" | ")[3:7] for row in rows] == [
        ["abc1234", "glibc as it is", "4.00 (2.00 to 6.00)", ""],
        [HERE, "glibc as it is", "23.25 (1.50 to 45.00)", "0.75 (0.75 to 0.75)"],
        [HERE, "as the scripts set it", "30.50 (1.00 to 60.00)", "0.75 (0.50 to 1.00)"],
    ]


def test_wrong_arguments_are_named():
    assert "lengths=[0]" in EarlierArguments(lengths=[0]).problem()
    assert "depths=[]" in EarlierArguments(depths=[]).problem()


@pytest.mark.parametrize("folder", ["earlier", "earlier_bf16"])
def test_recorded_results_give_the_same_report(folder):
    rendered, written = rendered_and_written(render, f"{folder}/results")
    assert rendered == written

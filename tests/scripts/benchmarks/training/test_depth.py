"""The benchmark of memory against depth: tiny runs, and the ratio that its table has."""

import pytest
import torch
from PIL import Image

from scripts.benchmarks.training import arguments as its_arguments
from scripts.benchmarks.training import depth as benchmark
from scripts.benchmarks.training.arguments import TrainingBenchmarkArguments
from scripts.benchmarks.training.depth import DepthArguments, DepthCase, main, render
from scripts.benchmarks.training.run import measure
from tests.scripts.benchmarks.tiny import TINY, rendered_and_written, results_of, words_of


def test_tiny_runs_are_written_and_gone_on_with(tmp_path, monkeypatch):
    started = []

    def run_here(module, request, timeout, environment):
        started.append((request["case"]["layers"], "THP_MEM_ALLOC_ENABLE" in environment))
        arguments = TrainingBenchmarkArguments(**request["arguments"])
        assert arguments.steps == arguments.warmup == 1
        case = benchmark.TrainingCase(**request["case"])
        assert arguments.rows_of(case) == 1
        return measure(case, arguments, benchmark.ModelShape(**request["shape"]))

    monkeypatch.setattr(benchmark, "run_process", run_here)
    sizes = {"output_dir": tmp_path, "lengths": 64, "dtypes": "float32", "depths": [2, 3]}
    words = words_of(sizes | {"num_threads": torch.get_num_threads()} | TINY)
    assert main(words) == 0
    assert started == [(2, True), (2, False), (3, True), (3, False)]
    assert len(results_of(tmp_path)["runs"]) == 4
    assert "| 64 | float32 | as the training scripts set it | 3 |" in (
        (tmp_path / "results.md").read_text()
    )
    with Image.open(tmp_path / "results.png") as image:
        assert image.size[0] == 780
    assert main(words) == 0 and len(started) == 4


def test_long_rows_are_not_measured_with_glibc_as_it_is():
    cases = DepthArguments(lengths=[64, 128], dtypes=["float32"], max_length_default=64).cases()
    assert {case.allocator for case in cases if case.length == 128} == {"scripts"}
    assert len(cases) == 9


def test_depth_is_compared_without_parameters_and_gradients():
    header = {"machine": {"date": "2020-01-01", "processor": "p", "torch_threads": 1}}
    header["machine"]["versions"] = {"torch": "1", "transformers": "1"}
    runs = [
        {
            **DepthCase("scripts", 1024, "float32", layers)._asdict(),
            "repeat": 0,
            "memory": {"imported": 400e6, "forward": 1e6, "backward": peak},
            "parameter_bytes": parameters,
            "seconds_per_step": 1.0,
        }
        for layers, peak, parameters in ((4, 600e6, 50e6), (24, 950e6, 200e6))
    ]
    rows = [line for line in render(header | {"summary": ""}, runs).splitlines() if "1K" in line]
    assert [row.split(" | ")[4:8] for row in rows] == [
        ["600", "500", "100", "1.000"],
        ["950", "550", "150", "1.100"],
    ]


def test_without_glibc_there_is_no_other_allocator(monkeypatch):
    monkeypatch.setattr(its_arguments.platform, "libc_ver", lambda: ("musl", "1"))
    assert "allocator=scripts needs Linux with glibc" in DepthArguments().problem()
    assert DepthArguments(allocators=["default"]).problem() is None


@pytest.mark.parametrize("folder", ["depth", "depth_before", "depth_8_12", "depth_times"])
def test_recorded_results_give_the_same_report(folder):
    rendered, written = rendered_and_written(render, f"{folder}/results")
    assert rendered == written

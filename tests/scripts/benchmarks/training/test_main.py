"""The training benchmark: tiny runs give tables, plots and a summary, and are gone on with.

Most tests measure in this process instead of one per run, which would import torch each time.
"""

import pytest
import torch
from PIL import Image

from scripts.benchmarks.training import __main__ as benchmark
from scripts.benchmarks.training import arguments as its_arguments
from scripts.benchmarks.training.__main__ import main
from scripts.benchmarks.training.arguments import TrainingBenchmarkArguments
from scripts.benchmarks.training.report import TrainingCase, TrainingResults
from scripts.benchmarks.training.run import measure
from tests.scripts.benchmarks.tiny import SHAPE, TINY, results_of, words_of


def tiny_arguments(folder, **changes):
    values = {
        "output_dir": folder,
        "variants": ["band", "stock", "gpt2", "floor"],
        "lengths": [64, 128],
        "tokens_per_batch": 64,
        "dtypes": "float32",
        "profile_length": 64,
        "repeats": 1,
        "steps": 2,
        "warmup": 1,
        "attempts": 1,
        "max_waiting": 1e6,
        "num_threads": torch.get_num_threads(),
        **TINY,
        **changes,
    }
    return words_of(values)


@pytest.fixture
def started(monkeypatch):
    """Runs that were started, as cases; they are done in this process."""
    cases = []

    def run_here(case, arguments, shape):
        cases.append(case)
        return measure(case, arguments, shape)

    monkeypatch.setattr(benchmark, "run_child", run_here)
    return cases


class TestRuns:
    def test_everything_is_written(self, tmp_path, started):
        assert main(tiny_arguments(tmp_path)) == 0
        results = results_of(tmp_path)
        variants = ("band", "stock", "gpt2", "floor")
        expected = {
            TrainingCase(variant, length, "float32", mode, 2)
            for variant in variants
            for length in (64, 128)
            for mode in ("forward", "training")
        }
        expected.add(TrainingCase("band", 64, "float32", "profile", 2))
        assert TrainingResults(results["runs"], 2).cases == expected
        assert len(started) == len(results["runs"]) == len(expected)
        text = (tmp_path / "results.md").read_text()
        for part in (
            "## Targets: `band`",
            "### forward and backward, float32",
            "## Time by stage: `band` at 64, float32",
            "Allocator: glibc's allocator",
        ):
            assert part in text
        assert "lucid" not in text.split("## Tokens per second")[1]
        assert "Not found" not in text
        for name in ("time_per_token", "seconds_per_batch", "memory_by_length"):
            with Image.open(tmp_path / f"{name}.png") as image:
                assert image.size[0] == 780

    def test_it_goes_on_where_it_stopped(self, tmp_path, started, monkeypatch):
        arguments = tiny_arguments(tmp_path, lengths=64, variants=["gpt2", "floor"])
        run_here = benchmark.run_child

        def interrupted(case, *others):
            if case.variant == "floor":
                raise KeyboardInterrupt
            return run_here(case, *others)

        with monkeypatch.context() as patch:
            patch.setattr(benchmark, "run_child", interrupted)
            with pytest.raises(KeyboardInterrupt):
                main(arguments)
        before = results_of(tmp_path)["runs"]
        assert [run["variant"] for run in before] == ["gpt2"]
        assert main(arguments) == 0
        assert [(case.variant, case.mode) for case in started] == [
            ("gpt2", "forward"),
            ("floor", "forward"),
            ("gpt2", "training"),
            ("floor", "training"),
        ]
        assert results_of(tmp_path)["runs"][:1] == before
        assert main(arguments) == 0
        assert len(started) == 4

    def test_other_settings_are_refused(self, tmp_path, started, capsys):
        arguments = {"lengths": 64, "variants": "floor", "modes": "forward"}
        main(tiny_arguments(tmp_path, **arguments))
        with pytest.raises(SystemExit):
            main(tiny_arguments(tmp_path, **arguments, steps=3))
        assert "other ['steps']" in capsys.readouterr().err
        assert len(started) == 1

    def test_a_process_of_its_own(self, tmp_path):
        # That of generation has one that fails.
        options = {"variants": "floor", "lengths": 64, "modes": "training", "dtypes": "bfloat16"}
        assert main(tiny_arguments(tmp_path, **options)) == 0
        (floor,) = results_of(tmp_path)["runs"]
        assert floor["steps"] == 2 and "error" not in floor


class TestArguments:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"variants": "bond"}, "unknown variants ['bond']"),
            ({"dtypes": "float16"}, "unknown dtypes ['float16']"),
            ({"modes": "profile"}, "unknown modes ['profile']"),
            ({"repeats": 0}, "repeats=0"),
            ({"lengths": [64, 0]}, "lengths=[64, 0]"),
            ({"lengths": 67}, "lengths=67: `stock` trains only at the product"),
            ({"allocator": "mine"}, "invalid choice: 'mine'"),
        ],
    )
    def test_wrong_arguments(self, tmp_path, started, capsys, changes, message):
        with pytest.raises(SystemExit):
            main(tiny_arguments(tmp_path, **changes))
        assert message in capsys.readouterr().err
        assert started == []

    def test_lucid_needs_whole_pairs_of_chunks(self):
        arguments = TrainingBenchmarkArguments(variants=["lucid"], lengths=[48])
        assert "needs multiples of 2 chunks, 32 tokens" in arguments.problem(SHAPE)

    def test_another_allocator_needs_glibc(self, monkeypatch):
        arguments = TrainingBenchmarkArguments(variants=["band"], allocator="keep_pages")
        monkeypatch.setattr(its_arguments.platform, "libc_ver", lambda: ("musl", "1"))
        assert "needs Linux with glibc" in arguments.problem(SHAPE)

    def test_the_environment_of_runs(self, monkeypatch):
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
        monkeypatch.setenv("COLOUR", "red")
        as_usual = its_arguments.allocator_environment("default", 4)
        assert "MALLOC_TRIM_THRESHOLD_" not in as_usual and as_usual["COLOUR"] == "red"
        keeping = its_arguments.allocator_environment("keep_pages", 4)
        assert keeping["MALLOC_TRIM_THRESHOLD_"] == "17179869184"
        assert keeping["MALLOC_MMAP_THRESHOLD_"] == "8589934592" and keeping["COLOUR"] == "red"
        shallow, deep = (its_arguments.allocator_environment("scripts", n) for n in (6, 7))
        assert shallow["THP_MEM_ALLOC_ENABLE"] == "1" and "MALLOC_MMAP_THRESHOLD_" not in shallow
        assert deep["MALLOC_MMAP_THRESHOLD_"] == "8388608"

    def test_a_missing_package_is_left_out(self, tmp_path, started, monkeypatch, capsys):
        monkeypatch.setattr(its_arguments, "lucid_is_installed", lambda: False)
        arguments = tiny_arguments(
            tmp_path, variants=["lucid", "floor"], lengths=64, modes="forward"
        )
        assert main(arguments) == 0
        assert "Without `lucid`: pip install -e '.[bench]'" in capsys.readouterr().out
        assert [case.variant for case in started] == ["floor"]

    def test_variants_take_turns_within_their_limits(self):
        arguments = TrainingBenchmarkArguments(
            variants=["band", "lucid", "gpt2"],
            lengths=[64, 128],
            dtypes=["float32"],
            modes=["training"],
            profile_length=64,
            max_length_lucid=64,
            first_max_length_lucid=128,
            max_length_gpt2=64,
            first_max_length_gpt2=0,
        )
        first, second = (
            [(c.variant, c.length, c.mode, c.layers) for c in arguments.cases(repeat, SHAPE)]
            for repeat in (0, 1)
        )
        assert first == [
            *[(variant, 64, "training", 2) for variant in ("band", "lucid", "gpt2")],
            *[(variant, 128, "training", 2) for variant in ("band", "lucid")],
            ("band", 64, "profile", 2),
        ]
        assert second == [
            *[(variant, 64, "training", 2) for variant in ("lucid", "gpt2", "band")],
            ("band", 128, "training", 2),
        ]

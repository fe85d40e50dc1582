"""The generation benchmark: tiny runs give tables and a plot, resume, and survive failures.

Most tests measure in this process instead of one per run, which would import torch each time.
"""

import pytest
import torch
from PIL import Image

from scripts.benchmarks.common import runs
from scripts.benchmarks.common.peers import VARIANTS
from scripts.benchmarks.generation import __main__ as benchmark
from scripts.benchmarks.generation import run as one_run
from scripts.benchmarks.generation.__main__ import main
from scripts.benchmarks.generation.arguments import GenerationArguments
from scripts.benchmarks.generation.report import Case
from scripts.benchmarks.generation.run import measure
from tests.scripts.benchmarks.tiny import TINY, results_of, words_of


def tiny_arguments(folder, **changes):
    values = {
        "output_dir": folder,
        "contexts": [64, 128],
        "batch_contexts": [64],
        "batch_size": 3,
        "repeats": 1,
        "steps": 2,
        "attempts": 1,
        "max_waiting": 1e6,
        "warmup": 1,
        "max_prefill": 64,
        "prefill_tokens": 48,
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
        return (one_run.profile if arguments.profile else measure)(case, arguments, shape)

    monkeypatch.setattr(benchmark, "run_child", run_here)
    return cases


class TestRuns:
    def test_everything_is_written(self, tmp_path, started):
        assert main(tiny_arguments(tmp_path)) == 0
        expected = {Case(variant, context, 1) for variant in VARIANTS for context in (64, 128)}
        assert len(started) == 9 and set(started) == expected | {Case("band", 64, 3)}
        runs = results_of(tmp_path)["runs"]
        assert len(runs) == 9
        for run in runs:
            assert run["steps"] == 2 and run["ms_per_step"] > 0
            random_states = run["variant"] in ("stock", "gpt2") and run["context"] == 128
            assert run["random_states"] == random_states
            assert (run["prefill_seconds"] is None) == random_states
        text = (tmp_path / "results.md").read_text()
        assert f"{VARIANTS['stock']} / {VARIANTS['band']}" in text
        assert f"{VARIANTS['band']} / itself at 64" in text
        assert "| 64 | 3 |" in text
        with Image.open(tmp_path / "milliseconds_per_token.png") as image:
            assert image.size == (840, 540)

    def test_it_goes_on_where_it_stopped(self, tmp_path, started, monkeypatch):
        arguments = tiny_arguments(tmp_path, contexts=64, variants=["band", "gpt2"])
        run_here = benchmark.run_child

        def interrupted(case, *others):
            if case.variant == "gpt2":
                raise KeyboardInterrupt
            return run_here(case, *others)

        with monkeypatch.context() as patch:
            patch.setattr(benchmark, "run_child", interrupted)
            with pytest.raises(KeyboardInterrupt):
                main(arguments)
        before = results_of(tmp_path)["runs"]
        assert started == [Case("band", 64, 1)]
        assert main(arguments) == 0
        assert started == [Case("band", 64, 1), Case("gpt2", 64, 1), Case("band", 64, 3)]
        assert results_of(tmp_path)["runs"][:1] == before
        assert main(arguments) == 0
        assert len(started) == 3

    def test_other_settings_and_code_are_refused(self, tmp_path, started, monkeypatch, capsys):
        arguments = {"contexts": 64, "variants": "gpt2"}
        main(tiny_arguments(tmp_path, **arguments))
        with pytest.raises(SystemExit):
            main(tiny_arguments(tmp_path, **arguments, hidden_size=8))
        assert "other ['shape']" in capsys.readouterr().err
        (tmp_path / "package" / "ops").mkdir(parents=True)
        (tmp_path / "package" / "ops" / "new.py").write_text("x = 1")
        package = tmp_path / "package" / "__init__.py"
        monkeypatch.setattr(runs.reformer_hf, "__file__", str(package))
        with pytest.raises(SystemExit):
            main(tiny_arguments(tmp_path, **arguments))
        assert "other ['source']" in capsys.readouterr().err
        assert len(started) == 1

    def test_a_failed_run_is_tried_again_by_the_next_call(self, tmp_path, started, monkeypatch):
        arguments = tiny_arguments(tmp_path, contexts=64, variants="gpt2", repeats=2)
        with monkeypatch.context() as patch:
            patch.setattr(benchmark, "run_child", lambda *_: {"error": "no luck"})
            assert main(arguments) == 1
        assert [run["error"] for run in results_of(tmp_path)["runs"]] == ["no luck"]
        assert "no luck" in (tmp_path / "results.md").read_text()
        assert main(arguments) == 0
        assert [run["repeat"] for run in results_of(tmp_path)["runs"]] == [0, 1]

    def test_a_run_that_stayed_disturbed_is_left_to_the_next_call(
        self, tmp_path, started, monkeypatch
    ):
        arguments = tiny_arguments(tmp_path, contexts=64, variants="gpt2")
        run_here = benchmark.run_child
        with monkeypatch.context() as patch:
            patch.setattr(benchmark, "run_child", lambda *run: run_here(*run) | {"waiting": 2e6})
            assert main(arguments) == 1
        assert "1 runs are left out" in (tmp_path / "results.md").read_text()
        assert not (tmp_path / "milliseconds_per_token.png").exists()
        assert main(arguments) == 0
        assert [run["disturbed"] for run in results_of(tmp_path)["runs"]] == [False]
        assert len(started) == 2

    @pytest.mark.slow  # the training benchmark has such a test, too
    def test_processes_of_their_own_one_failing(self, tmp_path):
        # transformers' Reformer refuses an odd number of buckets, GPT-2 has none.
        arguments = tiny_arguments(
            tmp_path, contexts=64, variants=["stock", "gpt2"], num_buckets=3, batch_contexts=1
        )
        assert main(arguments) == 1
        stock, gpt2 = results_of(tmp_path)["runs"]
        assert "AssertionError: There should be an even number of buckets" in stock["error"]
        assert "ms_per_step" not in stock
        assert gpt2["steps"] == 2 and "error" not in gpt2

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"variants": "bond"}, "unknown variants ['bond']"),
            ({"contexts": [64, 254]}, "need 257"),
            ({"repeats": 0}, "repeats=0"),
        ],
    )
    def test_wrong_arguments(self, tmp_path, started, capsys, changes, message):
        with pytest.raises(SystemExit):
            main(tiny_arguments(tmp_path, **changes))
        assert message in capsys.readouterr().err
        assert started == []

    def test_the_profile(self, tmp_path, started):
        assert main([*tiny_arguments(tmp_path), "--profile"]) == 0
        text = (tmp_path / "profile.md").read_text()
        calls = {}
        for kind in ("local", "lsh"):
            for part in ("attention", "feed_forward", "sums of the streams"):
                line = next(x for x in text.splitlines() if x.startswith(f"| {kind} layer, {part}"))
                calls[kind, part] = float(line.split("|")[3])
        # Two sums; a norm and two products; and LSH layers also hash.
        assert calls["local", "sums of the streams"] == calls["lsh", "sums of the streams"] == 2
        assert 3 <= calls["local", "feed_forward"] == calls["lsh", "feed_forward"]
        assert 3 < calls["local", "attention"] < calls["lsh", "attention"]
        assert text.count("| aten::") == 15
        assert not (tmp_path / "results.json").exists()


def test_runs_take_turns_within_a_repeat():
    arguments = GenerationArguments(
        contexts=[64, 128], repeats=2, batch_contexts=[64], batch_size=3, max_context_gpt2=64
    )
    order = [(i, case.context, case.variant, case.batch) for case, i in arguments.cases()]
    assert order == [
        *[(0, 64, variant, 1) for variant in ("band", "chunk", "stock", "gpt2")],
        (0, 64, "band", 3),
        *[(0, 128, variant, 1) for variant in ("band", "chunk", "stock")],
        *[(1, 64, variant, 1) for variant in ("chunk", "stock", "gpt2")],
        (1, 64, "band", 3),
        (1, 64, "band", 1),
        *[(1, 128, variant, 1) for variant in ("chunk", "stock", "band")],
    ]

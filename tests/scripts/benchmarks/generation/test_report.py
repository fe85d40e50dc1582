"""The tables of the generation benchmark, from runs with known numbers."""

from scripts.benchmarks.common.peers import VARIANTS
from scripts.benchmarks.generation.report import Case, Results, render
from tests.scripts.benchmarks.tiny import rendered_and_written


def recorded(variant, context, repeat, milliseconds, batch=1, **changes):
    return {
        "variant": variant,
        "context": context,
        "batch": batch,
        "repeat": repeat,
        "random_states": False,
        "ms_per_step": milliseconds,
        "prefill_seconds": 2.0,
        "cache_used_bytes": 100 + 10 * context,
        "cache_allocated_bytes": 2_000_000,
        "disturbed": False,
        "waiting": 0.5,
        "waiting_in_prefill": 0.25,
        **changes,
    }


HEADER = {
    "summary": "Tiny.",
    "machine": {
        "date": "2026-01-02T03:04:05",
        "processor": "abacus",
        "torch_threads": 1,
        "versions": {"torch": "2", "transformers": "5"},
    },
}


class TestReport:
    def test_ratios_are_of_the_same_repeat(self):
        runs = [
            recorded("stock", 1024, 0, 10.0),
            recorded("stock", 1024, 1, 40.0),
            recorded("stock", 1024, 2, 7.0),
            recorded("band", 1024, 1, 10.0),
            recorded("band", 1024, 0, 5.0),
        ]
        assert Results(runs).ratios(Case("stock", 1024, 1), Case("band", 1024, 1)) == [2.0, 4.0]
        line = f"| {VARIANTS['stock']} / {VARIANTS['band']} | 3.00 (2.00 to 4.00) |"
        assert line in render(HEADER, runs)

    def test_the_tables(self):
        runs = [
            recorded("band", 1024, 0, 2.0),
            recorded("band", 4096, 0, 3.0),
            recorded("band", 4096, 1, 99.0, disturbed=True),
            recorded("band", 1024, 0, 8.0, batch=16),
            recorded("gpt2", 4096, 0, 6.0, random_states=True, prefill_seconds=None),
            {"variant": "gpt2", "context": 1024, "batch": 1, "error": "too big"},
        ]
        band, gpt2 = VARIANTS["band"], VARIANTS["gpt2"]
        lines = render(HEADER, runs).splitlines()
        assert lines[0] == "2026-01-02, abacus, 1 threads, torch 2, transformers 5. Tiny."
        for line in (
            "| context | 1K | 4K |",
            f"| {band} | 2.00 | 3.00 |",
            f"| {gpt2} | - | 6.00 * |",
            f"| {gpt2} / {band} | - | 2.00 |",
            f"| {band} / itself at 1K | 1.00 | 1.50 |",
            # 16 rows in four times the time of one.
            f"| {band} | 1K | 16 | 500 | 2,000 | 4.00 |",
            f"| {band} | 512 | 2,048 |",
            f"| {gpt2} | - | - |",
            f"| {band} | 10 | 100 | 0.0 of 2.0 | 0.0 of 2.0 |",
            f"| {gpt2} | - | - | - | 0.0 of 2.0 |",
            f"| {gpt2} | 1K | 1 | too big |",
        ):
            assert line in lines
        text = "\n".join(lines)
        assert "each second of decoding: 0.50 (0.50 to 0.50). 1 runs are left out" in text
        assert "each second of prefill: 0.25 (0.25 to 0.25)." in text


def test_recorded_results_give_the_same_report():
    rendered, written = rendered_and_written(render, "generation/results")
    assert rendered == written

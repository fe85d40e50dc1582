"""The benchmark of rows over several processes: cases run, and the tables say what was found."""

import pytest

from scripts.benchmarks.sequence_parallel import __main__ as benchmark
from scripts.benchmarks.sequence_parallel.__main__ import Shape, main, render
from scripts.benchmarks.sequence_parallel.run import Case, answer, tail_bytes
from tests.scripts.benchmarks.tiny import rendered_and_written, words_of


@pytest.mark.slow
def test_two_processes_run_a_case():
    shape = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}
    shape |= {"feed_forward_size": 24, "num_hashes": 2, "hash_length": 64}
    found = answer({"case": Case(2, 256)._asdict(), "steps": 1, "shape": shape})
    assert found["seconds_fastest_step"] > 0 and found["received_bytes"] > tail_bytes(shape)


def test_the_tables_say_what_was_found(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        benchmark,
        "run_child",
        lambda case, *_: {
            "seconds_fastest_step": 8 / case.processes,
            "peak_bytes": 5_000_000,
            "before_bytes": 2_000_000,
            "received_bytes": 7_000_000 * (case.processes - 1),
            "waiting": 0.25,
        },
    )
    assert main([*words_of({"output_dir": tmp_path}), "--smoke"]) == 0
    printed = capsys.readouterr().out
    assert "| 256 | 2 | 4.00 | 3 | 7.0 | 0.25 |" in printed
    assert "31250 microseconds per token" in printed  # 8 s for 256 tokens


def test_tails_are_those_of_the_formula():
    shape = Shape(num_attention_heads=4, hidden_size=256, num_hashes=2, hash_length=2048)
    heads, rounds, buckets, window, dim = 4, 2, 32, 64, 64
    expected = heads * rounds * buckets * (2 * window * dim * 4 + 4)
    assert tail_bytes(vars(shape)) == expected


def test_a_run_that_fails_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "run_process", lambda *_: {"error": "no memory"})
    assert main([*words_of({"output_dir": tmp_path}), "--smoke"]) == 1
    assert "- 2 processes failed: no memory" in capsys.readouterr().out


def test_the_table_is_that_of_the_results():
    made, written = rendered_and_written(render, "sequence_parallel/results")
    assert made == written

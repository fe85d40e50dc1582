"""Summary and tables of the training benchmark, from runs with known numbers."""

import pytest

from scripts.benchmarks.training.peers import TRAINING_VARIANTS
from scripts.benchmarks.training.report import TrainingResults, peak_bytes
from scripts.benchmarks.training.targets import Target, render, targets
from tests.scripts.benchmarks.tiny import rendered_and_written
from tests.scripts.benchmarks.training.tiny_runs import HEADER, recorded


def verdicts(runs, ours="band"):
    return {t.text: t.verdict for t in targets(TrainingResults(runs, 6), ours)}


def test_a_target():
    assert Target("", 2.5, True, 2.5).verdict == "holds"
    assert Target("", 2.5, True, 2.1).verdict == "falls short by 0.40"
    assert Target("", 1.7, False, 1.7).verdict == "holds"
    assert Target("", 1.7, False, 1.95).verdict == "falls short by 0.25"
    assert Target("faster", 4.0, True, None).row() == [
        "faster",
        "at least 4.00",
        "-",
        "not measured",
    ]


def test_speed():
    runs = [
        recorded("band", 4096, 1.0),
        recorded("band", 4096, 2.0, repeat=1),
        recorded("stock", 4096, 2.0),
        recorded("stock", 4096, 8.0, repeat=1),  # ratios 2 and 4
        recorded("lucid", 4096, 3.0),
        recorded("stock", 4096, 4.5, dtype="bfloat16"),
        recorded("band", 4096, 1.0, dtype="bfloat16"),
        recorded("stock", 4096, 3.5, mode="forward"),
        recorded("band", 4096, 1.0, mode="forward"),
        recorded("band", 16384, 2.0),
        recorded("gpt2", 16384, 7.0),
        recorded("floor", 16384, 1.0),
        recorded("band", 512, 1.1),
        recorded("gpt2", 512, 1.0),
    ]
    found = verdicts(runs)
    assert found["training, float32, 4K: stock / band, seconds"] == "holds"
    assert found["training, bfloat16, 4K: stock / band, seconds"] == "falls short by 0.50"
    assert found["training, float32, 4K: lucid / band, seconds"] == "falls short by 1.00"
    assert found["forward, float32, 4K: stock / band, seconds"] == "holds"
    assert found["training, float32, 16K: stock / band, seconds"] == "not measured"
    assert found["training, float32, 2K: gpt2 / band, seconds"] == "not measured"
    assert found["training, float32, 16K: gpt2 / band, seconds"] == "falls short by 0.50"
    assert found["training, float32, 16K: band / floor, seconds"] == "falls short by 0.30"
    assert found["training, float32, 512: band / gpt2, seconds"] == "holds"
    assert found["forward, float32, 512: band / gpt2, seconds"] == "not measured"
    assert len(found) == 20


def test_memory():
    runs = [
        recorded("band", 65536, 1.0, megabytes=700),
        recorded("chunk", 65536, 1.0, megabytes=800),
        recorded("stock", 65536, 1.0, megabytes=1000),
        recorded("lucid", 65536, 1.0, megabytes=700),
    ]
    found = verdicts(runs)
    assert found["training, float32, 64K: band / stock, peak memory"] == "falls short by 0.20"
    assert found["training, float32, 64K: band / lucid, peak memory"] == "holds"
    found = verdicts(runs, "chunk")
    assert found["training, float32, 64K: chunk / stock, peak memory"] == "falls short by 0.30"


def test_the_peak_of_a_run():
    run = recorded("band", 64, 1.0, megabytes=450)
    assert peak_bytes(run) == 500e6  # forward had more
    run["memory"] |= {"forward": None, "backward": None}
    assert peak_bytes(run) == 700e6


def test_the_tables():
    profiled = {
        "stages": [["hash", 1.0, 0.0, 0.0], ["attend", 2.0, 2.0, 5.0]],
        "missing": ["reformer_hf.ops.old"],
        "plain_milliseconds": 9.0,
        "steps": 2,
        "waiting": 0.0,
        "disturbed": False,
    }
    runs = [
        recorded("band", 512, 1.0),
        recorded("band", 2048, 2.0),
        recorded("band", 2048, 9.0, repeat=1, disturbed=True),
        recorded("stock", 2048, 5.0),
        recorded("stock", 2048, 7.0, repeat=1),
        recorded("band", 512, 1.0, layers=4),
        {**recorded("gpt2", 512, 1.0), "error": "too big"},
        {**recorded("band", 4096, 1.0, mode="profile"), **profiled},
    ]
    lines = render(HEADER, runs).splitlines()
    band, stock = TRAINING_VARIANTS["band"], TRAINING_VARIANTS["stock"]
    assert lines[0] == "2026-01-02, abacus, 1 threads, torch 2, transformers 5. Tiny."
    for line in (
        "## Targets: `band`",
        "| tokens of a row | 512 | 2K |",
        f"| {band} | 4,096 | 2,048 |",
        f"| {stock} | - | 702 (585 to 819) |",
        f"| {stock} / {band} | - | 2.50 |",
        f"| {band} | 450 / 500 / 600 | 450 / 500 / 600 |",
        "| attend | 2.0 | 2.0 | 5.0 | 9.0 | 90.0% |",
        "| all | 3.0 | 2.0 | 5.0 | 10.0 | 100.0% |",
        "Not found, so in the stage around them: reformer_hf.ops.old.",
        "| gpt2 | 512 | float32 | training | 6 | too big |",
    ):
        assert line in lines
    assert "1 runs are left out" in "\n".join(lines)
    assert "## The same for information: `chunk`" not in lines


@pytest.mark.parametrize(
    "name", ["results", "return_large", "allocator_default", "allocator_keep_pages"]
)
def test_recorded_results_give_the_same_report(name):
    rendered, written = rendered_and_written(render, f"training/{name}")
    assert rendered == written

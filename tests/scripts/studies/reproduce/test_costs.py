"""The studies of speed and complexity: their subjects, fits and crossings, at a test's size."""

import pytest

from scripts.studies.reproduce import complexity, costs, speed, timed
from scripts.studies.reproduce.complexity import VARIANTS, ComplexityArguments, fit_power
from scripts.studies.reproduce.costs import FEED_FORWARD_PIECE, Sizes, build_attention, build_model
from scripts.studies.reproduce.speed import SpeedArguments, crossing
from tests.scripts.benchmarks.tiny import results_of, words_of


@pytest.fixture
def in_process(monkeypatch):
    def run_here(module, request, timeout, environment):
        assert module == costs.MODULE
        return costs.answer(request) | {"memory_bytes": 1000}

    monkeypatch.setattr(timed, "run_process", run_here)


def test_subjects_are_what_their_names_say():
    arguments = ComplexityArguments(smoke=True)
    sizes = Sizes(16, 2, 8)
    for name, variant in VARIANTS.items():
        subject = arguments.subject(variant, {"length": 128})
        is_lsh = name in ("LSH attention", "LSH Transformer", "Reformer")
        if variant.table == 1:
            kind = type(build_attention(subject, sizes)).__name__
            assert kind == ("LSHSelfAttention" if is_lsh else "FullSelfAttention")
            continue
        config = build_model(subject, sizes).config
        assert config.attn_layers == ["lsh" if is_lsh else "full"]
        assert config._attn_implementation == ("blockwise" if is_lsh else "eager")
        assert config.reversible == ("eversible" in name or name == "Reformer")
        piece = FEED_FORWARD_PIECE if "chunked" in name or name == "Reformer" else 128
        assert config.chunk_size_feed_forward == piece


def test_rows_fill_the_batch():
    subjects = dict(SpeedArguments(tokens=64, lengths=[16, 64], rounds=[2]).cases()).values()
    assert {(one.rows, one.length) for one in subjects} == {(4, 16), (1, 64)}


def test_all_scores_are_held_of_short_rows_only():
    arguments = ComplexityArguments(lengths=[16, 32], max_length_eager=16, axes=["length"])
    lengths = [(case.variant, case.value) for case, _ in arguments.cases()]
    assert ("Transformer", 16) in lengths and ("Transformer", 32) not in lengths
    assert ("Reformer", 32) in lengths


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({1024: 2.0, 2048: 2.0, 4096: 2.0}, "2,048"),
        ({1024: 2.0, 2048: 2.83, 4096: 2.83}, "2,898"),  # half way between the two, by logarithms
        ({1024: 0.5, 2048: 0.5, 4096: 0.5}, "below 1,024"),
        ({1024: 9.0, 2048: 9.0, 4096: 9.0}, "above 4,096"),
        ({}, "-"),
    ],
)
def test_where_full_attention_becomes_the_slower_one(other, words):
    assert crossing({1024: 1.0, 2048: 2.0, 4096: 4.0}, other) == words


def test_the_power_is_the_slope_of_the_logarithms():
    assert fit_power({2: 5.0, 4: 5.0, 8: 5.0}) == pytest.approx(0)
    assert fit_power({2: 3.0, 4: 6.0}) == pytest.approx(1)


@pytest.mark.parametrize(
    ("claim", "options", "count"),
    [
        (speed, {}, 4),
        (complexity, {"variants": ["scaled dot-product", "Reformer"]}, 2 + 2 + 2 + 2 + 2),
    ],
)
def test_each_case_is_timed_once(claim, options, count, in_process, tmp_path, capsys):
    options = {"output_dir": tmp_path, "smoke": True, **options}
    assert claim.run(words_of(options)) == 0
    folder = tmp_path / "smoke" / claim.CLAIM
    runs = results_of(folder)["runs"]
    assert len(runs) == count and all(one["seconds"] > 0 for one in runs)
    assert (folder / "results.png").stat().st_size
    text = (folder / "results.md").read_text()
    if claim is complexity:
        assert "| Reformer | memory | 1 (0.00, 0.00) | 0 (0.00, 0.00) |" in text
    else:
        assert "| LSH-1, band | " in text and "## Where the curves cross" in text
    assert claim.run(words_of(options)) == 0
    assert results_of(folder)["runs"] == runs
    with pytest.raises(SystemExit):
        claim.run(words_of(options | {"warmup": 0}))
    assert "warmup=0 must be at least 1" in capsys.readouterr().err

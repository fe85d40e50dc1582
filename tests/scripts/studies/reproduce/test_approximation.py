"""The study of the approximation: what it measures, and all of it at a test's size."""

import pytest
import torch

from reformer_hf.ops.attention_map import AttentionMap
from scripts.studies.library import random_model
from scripts.studies.reproduce.approximation import run
from scripts.studies.reproduce.approximation_run import (
    TOP,
    VARIANTS,
    Case,
    Layer,
    _overflow,
    measure,
    read_layers,
)
from tests.scripts.benchmarks.tiny import results_of, words_of


@pytest.fixture(scope="module")
def layer():
    model = random_model(attn_layers=["lsh"])
    return read_layers(model, torch.arange(3, 51)[None])[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_window_of_the_whole_row_makes_up_for_all_that_shares_a_bucket(layer, variant):
    alike = Layer(
        torch.ones_like(layer.hashed), layer.query, layer.value, layer.exact, layer.output
    )
    result = measure(alike, Case(variant, 1, 24), window=96, seeds=1)
    assert all(result[f"{name}_{count}"] == 1 for name in ("hashed", "shown") for count in TOP)
    assert result["weight"] == pytest.approx(1, abs=1e-5)
    assert result["output_error_once"] < 1e-5
    assert result["lost"] == 0 and result["crowded"] == (48 > 2 * 24)
    if variant != "band and nearest":  # where each key is shown twice
        assert result["output_error"] < 1e-5


def test_more_rounds_show_more(layer):
    few, many = (measure(layer, Case("band", rounds, 8), 8, seeds=2) for rounds in (1, 8))
    assert many["shown_8"] > few["shown_8"] and many["weight"] > few["weight"]
    assert many["output_error"] < few["output_error"]
    assert all(few[f"shown_{count}"] <= few[f"hashed_{count}"] for count in TOP)


def test_pairs_of_a_bucket_that_the_window_hides_are_lost():
    buckets = torch.tensor([[[[0, 0, 0, 0, 0, 1, 1, 2]]]])
    # Each sees the place before it: of ten and one pairs of a bucket, four and one.
    places = torch.arange(-1, 7).view(1, 1, 1, 8, 1)
    found = _overflow(AttentionMap(torch.ones(places.shape), places), buckets, num_buckets=4)
    assert found == {"lost": pytest.approx(1 - 5 / 11), "crowded": 5 / 8}


def test_each_case_is_measured_once(tmp_path, capsys):
    (tmp_path / "text").write_bytes(b"def f(x):\n    return x\n" * 200)
    options = {"output_dir": tmp_path, "text_file": tmp_path / "text", "smoke": True}
    assert run(words_of(options)) == 0
    folder = tmp_path / "smoke" / "approximation"
    runs = results_of(folder)["runs"]
    cases = [(one["variant"], one["rounds"], one["bucket"]) for one in runs]
    assert cases == [(variant, rounds, 8) for rounds in (1, 2) for variant in VARIANTS]
    assert (folder / "results.png").stat().st_size and (folder / "text.png").stat().st_size
    assert "## What chunk and window lose of a bucket" in (folder / "results.md").read_text()
    assert run(words_of(options)) == 0
    assert results_of(folder)["runs"] == runs
    with pytest.raises(SystemExit):
        run(words_of({"model_name_or_path": tmp_path / "none"}))
    assert "no such folder; run the quickstart, or give one" in capsys.readouterr().err

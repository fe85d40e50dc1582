"""The study of duplication: its rows, its buckets, and all of it at a test's size."""

import pytest
import torch

from scripts.studies.reproduce.common import chunk_length, num_buckets
from scripts.studies.reproduce.duplication import PUBLISHED, accuracies, run
from scripts.studies.reproduce.duplication_run import Attention, Task, build_model, make_rows
from tests.scripts.benchmarks.tiny import results_of, words_of

TASK = Task(length=9, symbols=5, window=8)


@pytest.mark.parametrize("stretch", [4, 9])
def test_rows_show_a_stretch_twice_at_its_positions(stretch):
    rows = make_rows(TASK, stretch, 6, torch.Generator().manual_seed(0))
    assert rows.ids.shape == rows.position_ids.shape == (6, 2 * stretch + 1)
    assert rows.targets.equal(rows.ids[:, 1 : stretch + 1])
    assert rows.ids[:, :stretch].equal(rows.ids[:, stretch + 1 :])
    places = rows.position_ids
    assert (places[:, stretch + 1 :] - places[:, :stretch] == TASK.length + 1).all()
    assert (places[:, : stretch + 1].diff() == 1).all()
    assert ((rows.ids == 0) == (places % (TASK.length + 1) == 0)).all()
    assert rows.ids.max() <= TASK.symbols
    if stretch == TASK.length:  # all of 0w0w but its last token
        assert places.equal(torch.arange(2 * TASK.length + 1).expand(6, -1))


def test_buckets_are_those_of_the_paper_or_fill_the_window():
    assert num_buckets("chunk", 64, 1023) == 64  # m = 2 l / n_buckets = 32, the chunk length
    assert chunk_length("chunk", 64) == 32
    assert num_buckets("band", 64, 1023) == 16 and chunk_length("band", 64) == 64


def test_weights_fit_all_attentions():
    full = build_model(TASK, Attention("chunk", 0), 19)
    for scope in ("chunk", "band"):
        build_model(TASK, Attention(scope, 2), 19).load_state_dict(full.state_dict())


def test_a_table_has_its_scope_and_full_attention():
    common = {"part": "evaluation", "accuracy": 0.5, "seed": 0}
    runs = [
        {**common, "trained": "Full", "scope": None, "evaluated": "LSH-8", "eval_scope": "band"},
        {**common, "trained": "Full", "scope": None, "evaluated": "Full", "eval_scope": None},
        {**common, "trained": "LSH-1", "scope": "band", "evaluated": "Full", "eval_scope": None},
        {**common, "trained": "LSH-1", "scope": "band", "evaluated": "LSH-8", "error": "no"},
    ]
    assert accuracies(runs, "chunk") == {"Full": {"Full": [50.0]}}
    assert accuracies(runs, "band") == {
        "Full": {"LSH-8": [50.0], "Full": [50.0]},
        "LSH-1": {"Full": [50.0]},
    }


def test_each_part_is_done_once(tmp_path, capsys):
    options = {"output_dir": tmp_path, "smoke": True}
    assert run(words_of(options)) == 0
    folder = tmp_path / "smoke" / "duplication"
    runs = results_of(folder)["runs"]
    trained = [(one["trained"], one["scope"]) for one in runs if one["part"] == "training"]
    assert trained == [("Full", None), ("LSH-1", "chunk"), ("LSH-1", "band")]
    assert len(runs) == 3 + 5 + 3 + 3
    assert all(0 <= one["accuracy"] <= 1 for one in runs if one["part"] == "evaluation")
    text = (folder / "results.md").read_text()
    assert f"({PUBLISHED['LSH-1']['Full']:g})" in text and "## Scope `band`" in text
    assert (folder / "results.png").stat().st_size
    assert run(words_of(options)) == 0
    assert results_of(folder)["runs"] == runs
    with pytest.raises(SystemExit):
        run(words_of({"output_dir": tmp_path, "stretch": 600}))
    assert "stretch=600: give 1 to length=511" in capsys.readouterr().err

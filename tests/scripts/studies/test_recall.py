"""The study of recall: its rows, what it says of LSH's buckets, and all of it at a test's size."""

import pytest
import torch

from scripts.studies.recall.__main__ import label, main, render
from scripts.studies.recall.run import WINDOW, Learner, build_model, find_answers
from scripts.studies.recall.task import (
    COPY_MARK,
    FILLER,
    IGNORED,
    KEYS,
    SYMBOLS,
    TASKS,
    VALUES,
    VOCABULARY,
    Rows,
    Size,
    row_length,
)
from tests.scripts.benchmarks.tiny import rendered_and_written, results_of, words_of


def rows_of(task, size, rows=3, seed=0):
    return TASKS[task](size, rows, torch.Generator().manual_seed(seed))


def test_recorded_results_give_the_same_report():
    rendered, written = rendered_and_written(render, "recall/results")
    assert rendered == written


def test_recall_asks_for_the_value_that_followed_the_key():
    size = Size(count=5, stretch=16, distance=20)
    ids, targets = rows_of("recall", size)
    assert ids.shape == targets.shape == (3, 16 + 20 + 10)
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        values = {}
        for place, token in enumerate(row[:16]):
            if KEYS <= token < KEYS + SYMBOLS:
                assert token not in values
                values[token] = row[place + 1]
        assert len(values) == 5 and all(VALUES <= one < FILLER for one in values.values())
        assert all(FILLER <= token < COPY_MARK for token in row[16:36])
        assert all(target == IGNORED for target in wanted[:36] + wanted[37::2])
        assert dict(zip(row[36::2], wanted[36::2], strict=True)) == values
        assert row[37::2] == wanted[36::2]
        assert row[36::2] != list(values)  # another order


def test_copy_asks_for_each_next_symbol_of_the_text():
    size = Size(count=6, stretch=16, distance=20)
    ids, targets = rows_of("copy", size)
    assert ids.shape == targets.shape == (3, 16 + 20 + 1 + 6)
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        text = [token for token in row[:16] if token < FILLER]
        assert len(set(text)) == 6 and row[-6:] == text and row[36] == COPY_MARK
        start = row.index(text[0])
        assert row[start : start + 6] == text
        assert wanted == [IGNORED] * 37 + text[1:] + [IGNORED]


@pytest.mark.parametrize("task", TASKS)
def test_rows_depend_on_the_generator_alone(task):
    size = Size(4, 16, 8)
    assert rows_of(task, size, seed=1).ids.equal(rows_of(task, size, seed=1).ids)
    assert not rows_of(task, size, seed=1).ids.equal(rows_of(task, size, seed=2).ids)
    ids = rows_of(task, size, rows=50).ids
    assert ids.max() < VOCABULARY and ids.shape[1] == row_length(task, size)


@pytest.mark.parametrize("size", [Size(9, 16, 8), Size(65, 512, 8), Size(0, 16, 8)])
def test_pairs_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match=f"count={size.count} pairs: give 1 to "):
        rows_of("recall", size)


@pytest.mark.parametrize("size", [Size(17, 16, 8), Size(65, 512, 8), Size(1, 16, 8)])
def test_texts_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match=f"count={size.count} symbols to copy: give 2 to "):
        rows_of("copy", size)


def test_values_are_all_as_likely():
    targets = rows_of("recall", Size(32, 64, 0), rows=2000).targets
    counts = torch.bincount(targets[targets != IGNORED] - VALUES, minlength=SYMBOLS)
    assert counts.sum() == 2000 * 32
    # No guess is better than chance: five standard deviations of a binomial count.
    expected = 2000 * 32 / SYMBOLS
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_an_answer_is_shown_in_its_bucket_within_the_window():
    seq = WINDOW + 4
    ids = torch.full((1, seq), FILLER)
    ids[0, 0], ids[0, 1] = KEYS + 7, VALUES + 3
    targets = torch.full((1, seq), IGNORED)
    ids[0, -1], targets[0, -1] = KEYS + 7, VALUES + 3
    rows = Rows(ids, targets)
    buckets = torch.zeros(1, 1, 2, seq, dtype=torch.int16)  # the answer is WINDOW + 2 places back
    assert find_answers(rows, buckets).tolist() == [[True, False]]
    buckets[0, 0, 1, 5:7] = 1  # two of those between are elsewhere in the second round
    assert find_answers(rows, buckets).tolist() == [[True, True]]
    buckets[0, 0, :, 1] = 2
    assert find_answers(rows, buckets).tolist() == [[False, False]]
    assert find_answers(rows, buckets, behind=0).tolist() == [[True, True]]
    buckets[0, 0, :, 0] = 2
    assert find_answers(rows, buckets, behind=0).tolist() == [[False, False]]


def test_weights_fit_any_number_of_buckets():
    learner = Learner("copy", "lsh", 2, 0)
    short, long = build_model(learner, 16), build_model(learner, [64, 64])
    assert long.config.num_buckets == [64, 64]
    long.load_state_dict(short.state_dict())


def test_lines_name_the_rounds():
    run = {"attention": "lsh", "num_hashes": 1, "eval_hashes": 8}
    assert label(run) == "lsh, 1 round in training, 8 in evaluation"
    assert label(run | {"attention": "lsh_next"}).startswith(
        "lsh, next values, 1 round in training"
    )
    assert label({"attention": "local", "num_hashes": 0, "eval_hashes": 0}) == "local"


def test_each_part_is_done_once(tmp_path, capsys):
    options = {"output_dir": tmp_path / "out", "tasks": list(TASKS), "smoke": True}
    options["attention"] = ["lsh", "lsh_next", "local"]
    assert main(words_of(options)) == 0
    runs = results_of(tmp_path / "out")["runs"]
    kinds = [(run["task"], run["attention"], run["part"], run.get("eval_hashes")) for run in runs]
    per_task = []
    for kind in ("lsh", "lsh_next"):
        per_task += [(kind, "training", None), *[(kind, "evaluation", n) for n in (1, 2)] * 2]
    per_task += [("local", "training", None), *[("local", "evaluation", 0)] * 2]
    assert kinds == [(task, *one) for task in TASKS for one in per_task]
    assert {run["distance"] for run in runs if run["part"] == "evaluation"} == {128, 256}
    for run in runs:
        if run["part"] == "evaluation":
            assert 0 <= run["accuracy"] <= 0.2  # nothing is learned in four steps
            assert ("shown" in run) == (run["attention"] != "local")
    text = (tmp_path / "out" / "results.md").read_text()
    assert "| lsh, 2 rounds in training, 1 in evaluation | " in text
    assert (tmp_path / "out" / "results.png").stat().st_size
    assert main(words_of(options)) == 0
    assert results_of(tmp_path / "out")["runs"] == runs
    with pytest.raises(SystemExit):
        main(words_of(options | {"smoke": False}))
    assert "runs with other ['stages'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(words_of(options | {"tasks": ["sums"]}))
    assert "unknown tasks ['sums']" in capsys.readouterr().err

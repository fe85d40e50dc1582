import csv
import math

import pytest
from PIL import Image

from reformer_hf.training import plots
from reformer_hf.training.plots import loss_curve, plot_loss_curve, write_curves

LOG = [
    {"loss": 5.0, "learning_rate": 0.1, "grad_norm": 1.0, "step": 5, "seconds": 1.5},
    {"eval_loss": 4.0, "eval_runtime": 1.0, "step": 5, "seconds": 2.0},
    {"loss": 3.0, "learning_rate": 0.05, "grad_norm": 1.0, "step": 10, "seconds": 3.0},
    {"train_runtime": 4.0, "train_loss": 4.0, "step": 10},
]


def read_csv(folder):
    return list(csv.DictReader((folder / "loss_curve.csv").read_text().splitlines()))


def test_the_csv_has_losses_in_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "plot_loss_curve", plot_loss_curve)  # tests/quick_runs.py
    write_curves(LOG, tmp_path)
    with Image.open(tmp_path / "loss_curve.png") as image:
        assert image.width > 500
    rows = read_csv(tmp_path)
    assert [row["step"] for row in rows] == ["5", "5", "10"]
    assert float(rows[0]["train_bits_per_byte"]) == pytest.approx(5 / math.log(2))
    assert float(rows[1]["eval_bits_per_byte"]) == pytest.approx(4 / math.log(2))
    assert rows[1]["train_bits_per_byte"] == rows[0]["eval_bits_per_byte"] == ""
    assert [row["seconds"] for row in rows] == ["1.5", "2.0", "3.0"]
    assert [row["learning_rate"] for row in rows] == ["0.1", "", "0.05"]


def test_losses_are_of_bytes_only_where_bytes_are_known(tmp_path):
    write_curves(LOG, tmp_path, tokens_are_bytes=False)
    assert float(read_csv(tmp_path)[0]["train_bits_per_token"]) == pytest.approx(5 / math.log(2))
    assert "train_bits_per_byte" not in read_csv(tmp_path)[0]
    unit, rows = loss_curve([*LOG, {"eval_loss": 2.0, "eval_bytes": 30, "eval_tokens": 10}], False)
    assert unit == "byte"
    assert rows[-1]["eval_bits_per_byte"] == pytest.approx(2 / math.log(2) / 3)
    masked = [{"eval_loss": 2.0, "eval_bytes": 0, "eval_tokens": 10}]
    assert loss_curve(masked, False)[0] == "token" and loss_curve([], True) == ("byte", [])


@pytest.mark.parametrize("log", [LOG, []])
def test_the_png_is_an_image(tmp_path, log):
    unit, rows = loss_curve(log)
    references = {"gzip": 2.0, "uniform": 8.0}
    plot_loss_curve(rows, unit, tmp_path / "curve.png", references, "title")
    with Image.open(tmp_path / "curve.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 500
        curve_colours = {(31, 119, 180), (255, 127, 14)}
        found = curve_colours & {colour[:3] for _, colour in image.getcolors(1 << 20)}
    assert found == curve_colours  # at least in the legend

import csv
import math
import subprocess
import sys

import pytest
from PIL import Image

from reformer_hf.training.plots import plot_loss_curve, write_loss_curve_csv

LOG = [
    {"loss": 5.0, "learning_rate": 0.1, "grad_norm": 1.0, "step": 5, "seconds": 1.5},
    {"eval_loss": 4.0, "eval_runtime": 1.0, "step": 5, "seconds": 2.0},
    {"loss": 3.0, "learning_rate": 0.05, "grad_norm": 1.0, "step": 10, "seconds": 3.0},
    {"train_runtime": 4.0, "train_loss": 4.0, "step": 10},
]


def rows_of(path, log, bytes_per_token=None):
    write_loss_curve_csv(log, path / "curve.csv", bytes_per_token)
    return list(csv.DictReader((path / "curve.csv").read_text().splitlines()))


def test_the_csv_has_losses_in_bits(tmp_path):
    rows = rows_of(tmp_path, LOG, 1.0)
    assert [row["step"] for row in rows] == ["5", "5", "10"]
    assert float(rows[0]["train_bits_per_byte"]) == pytest.approx(5 / math.log(2))
    assert float(rows[1]["eval_bits_per_byte"]) == pytest.approx(4 / math.log(2))
    assert rows[1]["train_bits_per_byte"] == rows[0]["eval_bits_per_byte"] == ""
    assert [row["seconds"] for row in rows] == ["1.5", "2.0", "3.0"]


def test_bits_per_token_are_not_called_bits_per_byte(tmp_path):
    rows = rows_of(tmp_path, LOG)
    assert "train_bits_per_byte" not in rows[0] and "eval_bits_per_byte" not in rows[0]
    assert float(rows[0]["train_bits_per_token"]) == pytest.approx(5 / math.log(2))
    counted = [LOG[0], LOG[1] | {"eval_tokens": 10, "eval_bytes": 40}]
    for given in (None, 1.0):
        rows = rows_of(tmp_path, counted, given)
        assert float(rows[0]["train_bits_per_byte"]) == pytest.approx(5 / math.log(2) / 4)
        assert float(rows[1]["eval_bits_per_byte"]) == pytest.approx(1 / math.log(2))


@pytest.mark.parametrize("log", [LOG, []])
def test_the_png_is_an_image(tmp_path, log):
    plot_loss_curve(log, tmp_path / "curve.png", {"gzip": 2.0, "uniform": 8.0}, "title")
    with Image.open(tmp_path / "curve.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 500
        curve_colours = {(31, 119, 180), (255, 127, 14)}
        found = curve_colours & {colour[:3] for _, colour in image.getcolors(1 << 20)}
    assert found == curve_colours  # at least in the legend


def test_matplotlib_and_datasets_are_imported_only_when_used():
    code = (
        "import sys, reformer_hf, reformer_hf.training, reformer_hf.training.plots\n"
        "assert not {'matplotlib', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

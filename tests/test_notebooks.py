"""The notebooks run from beginning to end, and show what they say."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def run(name: str) -> dict[str, Any]:
    """Execute the cells in order; what they have defined at the end."""
    cells = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
    defined: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, {cell['id']}", "exec"), defined)
    return defined


@pytest.fixture
def plots(tmp_path, monkeypatch) -> list[int]:
    """Makes an empty folder the current one; the number of axes of each figure shown."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.close("all")  # what another test left open would be drawn on

    shown: list[int] = []

    def show() -> None:
        shown.append(len(pyplot.gcf().axes))
        pyplot.close("all")

    monkeypatch.setattr(pyplot, "show", show)
    return shown


# peft asks the model for a property that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_fine_tuning(plots, tmp_path, capsys):
    defined = run("fine_tune_a_checkpoint.ipynb")
    assert defined["after"] < 5 < 7.5 < defined["before"]
    assert plots == [1]
    assert defined["model"].config.attention_scope == "chunk"
    assert (tmp_path / "fine_tuned" / "model.safetensors").is_file()
    assert "\ndef add_argument(self" in capsys.readouterr().out


def test_buckets(plots, capsys):
    defined = run("see_the_buckets.ipynb")
    assert defined["buckets"].shape == (2, 2, 1024)
    assert defined["in_a_bucket"] > 1.3 * defined["anywhere"]
    assert plots == [1, 2, 2]
    weights = defined["weights"]
    assert weights.sum() == pytest.approx(1, abs=1e-4) and weights[1001:].sum() == 0
    assert "looks at" in capsys.readouterr().out


@pytest.mark.parametrize("file", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda file: file.stem)
def test_no_outputs_are_stored(file):
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None

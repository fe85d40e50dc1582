"""The benchmark of sparse layers: tiny runs fill the tables, and bytes are counted."""

import pytest
import torch

from reformer_hf import ReformerHFForCausalLM
from scripts.benchmarks.sparse import __main__ as benchmark
from scripts.benchmarks.sparse import run as one_run
from scripts.benchmarks.sparse.__main__ import main
from scripts.benchmarks.sparse.arguments import LM_HEAD_SPARSITY, SHAPES, VARIANTS, Case
from scripts.benchmarks.sparse.run import answer
from scripts.benchmarks.sparse.weights import bytes_per_token
from tests.scripts.benchmarks.tiny import results_of, words_of


@pytest.fixture
def here(monkeypatch):
    """Runs are done in this process."""

    def run_process(module, request, timeout):
        assert module == one_run.__name__
        return answer(request)

    monkeypatch.setattr(benchmark, "run_process", run_process)
    monkeypatch.setattr(one_run, "_READ_BYTES", 2**14)


def test_tiny_runs_fill_all_tables(here, tmp_path, capsys):
    threads = torch.get_num_threads()
    words = words_of(
        {
            "output_dir": tmp_path,
            "shapes": ["tiny"],
            "dtypes": ["float32", "bfloat16"],
            **{"threads": [threads], "num_threads": threads, "repeats": 1, "steps": 2},
            **{"warmup": 1, "max_waiting": 1e6},
        }
    )
    assert main(words) == 0
    runs = results_of(tmp_path)["runs"]
    cases = {Case(*(run[name] for name in Case._fields)) for run in runs}
    dtypes = ("float32", "bfloat16")
    assert cases == {Case("tiny", name, dtype, threads) for name in VARIANTS for dtype in dtypes}
    printed = capsys.readouterr().out
    assert all(printed.count(f"\n| {words} |") == 2 for words in VARIANTS.values())
    assert "## Weights of fewer bytes" in printed and (tmp_path / "results.png").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_bytes_are_those_of_the_weights_that_a_token_needs(variant):
    shape = SHAPES["tiny"]
    model = ReformerHFForCausalLM(shape.config(variant))
    found, width, units = bytes_per_token(model), shape.hidden_size, shape.sparse_ff
    dense_ff = 2 * width * shape.dense_ff + shape.dense_ff + 3 * width  # biases, layer norm
    if variant in ("ff", "both", "all"):
        rank = model.config.ff_sparsity_rank
        used = units // shape.ff_sparsity
        sparse_ff = rank * (width + units) + units + used * (2 * width + 1) + 3 * width
        assert found["feed_forward"] == 4 * shape.layers * sparse_ff
    else:
        assert found["feed_forward"] == 4 * shape.layers * dense_ff
    projections = 4 * width**2
    if variant in ("qkv", "both", "all"):
        modules, module = shape.attention_sparsity, width // shape.attention_sparsity
        projections = width * (modules + module) + width + 21 * module**2 + 3 * module
    assert found["attention"] == 4 * shape.layers * (projections + 2 * width)
    head = 2 * width * shape.vocab_size
    if variant == "all":
        head = 2 * width * (LM_HEAD_SPARSITY + -(-shape.vocab_size // LM_HEAD_SPARSITY))
    assert found["head"] == 4 * (head + shape.vocab_size)


@pytest.mark.parametrize("words", [["--shapes", "huge"], ["--threads", "0"], ["--steps", "0"]])
def test_what_cannot_be_is_said(words, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert words[1] in capsys.readouterr().err

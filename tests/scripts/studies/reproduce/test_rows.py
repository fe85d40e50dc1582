"""The claims about learning: their rows, their results, and tiny runs of all of them."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

from reformer_hf import ReformerHFForConditionalGeneration
from scripts.studies.learning import comparison, training
from scripts.studies.learning.common import RECIPE
from scripts.studies.learning.peers import PEERS, use_one_stream
from scripts.studies.learning.recipe import Recipe
from scripts.studies.learning.sparse import parameters
from scripts.studies.reproduce import depth, hashes, memory, reversible, rows, shared_qk
from scripts.studies.reproduce.__main__ import main
from scripts.studies.reproduce.rows import RowsArguments
from tests.models.tiny import random_ids, tiny_config
from tests.scripts.benchmarks.tiny import results_of

HEADER = {
    "machine": {
        "date": "2026-01-02T03:04:05",
        "processor": "abacus",
        "torch_threads": 1,
        "versions": {"torch": "2", "transformers": "5"},
    },
    "summary": "Tiny.",
    "settings": {},
}


@pytest.fixture
def base():
    return RowsArguments().read_recipe()


def test_the_base_is_the_recipe_without_ngrams(base):
    recipe = Recipe.read(RECIPE)
    assert not base.config().use_qk_norm  # which shared queries and keys cannot have
    assert base.fields == {**recipe.fields, "ngram_sizes": []}
    assert base.arguments == {**recipe.arguments, "max_eval_samples": 8}


def test_rows_differ_in_their_attention_alone(base):
    separate, shared = (row.recipe for row in shared_qk.make_rows(base).values())
    assert separate.layers == ["full"] * 4 and shared.layers == ["full_shared_qk"] * 4
    assert separate.changed(attn_layers=shared.layers) == shared
    models = hashes.make_rows(base)
    assert list(models) == ["1", "2", "4", "8", "16", "full"]
    eight = models["8"].recipe
    assert eight.config().num_hashes == 8 and eight.layers == ["lsh"] * 4
    assert not eight.config().lsh_local_round


def test_models_of_reversible_layers_and_of_depths(base):
    models = reversible.make_rows(base)
    peers = {"reversible": None, "stored": None, "one stream": "one stream"}
    assert {name: row.peer for name, row in models.items()} == peers
    assert not models["one stream"].recipe.config().reversible
    assert models["reversible"].recipe.config().activation_budget == 0
    layers = {name: row.recipe.layers for name, row in depth.make_rows(base).items()}
    assert layers == {str(2 * pairs): ["local", "lsh"] * pairs for pairs in (1, 2, 4, 6)}


def test_models_of_the_text_of_16k_have_about_as_many_parameters():
    recipe = Recipe.read(Path(rows.__file__).with_name("text_16k.yaml"))
    models = comparison.make_rows(recipe.changed(vocab_size=258))
    assert models["reformer_hf"].recipe.block_size == 16_384
    sizes = [
        parameters(models[name].recipe)
        for name in ("reformer_hf", "full attention", "local layers only")
    ]
    sizes.append(PEERS["stock"]._from_config(recipe.config()).num_parameters())
    assert max(sizes) < 1.05 * min(sizes)


SUB_LAYER = re.compile(r"layers\.\d+\.(attention|cross_attention|feed_forward)$")


def watch_sub_layers(model, seen):
    """Note what each sub-layer of a stack read and added, and what its layer norm read at last."""

    def note(module, inputs, output):
        seen.append((inputs[0], output[0] if isinstance(output, tuple) else output))

    for name, module in model.named_modules():
        if SUB_LAYER.search(name) or name == "embeddings":
            module.register_forward_hook(note)
    model.encoder.layer_norm.register_forward_hook(note)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_one_stream_is_a_plain_transformer(side):
    torch.manual_seed(0)
    kinds = {f"{each}_attn_layers": ["full", "local"] for each in ("encoder", "decoder")}
    fields = {"is_encoder_decoder": True, "decoder_start_token_id": 0, "reversible": False}
    config = tiny_config(**fields, **kinds)
    model = use_one_stream(ReformerHFForConditionalGeneration(config)).eval()
    seen = []
    watch_sub_layers(getattr(model.reformer, side), seen)
    model(input_ids=random_ids(1, 12), labels=random_ids(1, 12, seed=1)).loss.backward()
    (_, stream), *sub_layers, (last, _) = seen
    assert len(sub_layers) == (4 if side == "encoder" else 6)
    for source, addend in sub_layers:
        torch.testing.assert_close(source, stream)
        stream = stream + addend
    torch.testing.assert_close(last, torch.cat([stream, stream], dim=-1))
    assert all(each.grad is not None for each in model.parameters())


def run_of(row, seed, bits, **more):
    run = {"row": row, "corpus": "python", "budget": "tokens", "seed": seed}
    costs = {"parameters": 1000, "tokens": 2000, "seconds": 3.0, "bits_per_byte": bits}
    curve = {"curve": [(1.0, bits + 1), (3.0, bits)], "curve_steps": [2, 4]}
    return {"run": run, "text": {"description": "the source"}, **costs, **curve, **more}


def test_rounds_in_training_and_in_evaluation_make_a_table(tmp_path):
    names = [*map(str, hashes.ROUNDS), "full"]
    scored = {name: 2.0 + 0.1 * place for place, name in enumerate(names)}
    runs = [run_of("1", seed, 2.0, evaluated=scored) for seed in (0, 1)]
    runs.append({"run": runs[0]["run"] | {"row": "2"}, "error": "no"})
    text = hashes.render(HEADER, runs)
    cells = " | ".join(f"{2.0 + 0.1 * place:.3f} ± 0.000" for place in range(6))
    assert f"| 1 | 1,000 | 2,000 | 3 | {cells} | 2 |" in text
    hashes.plot(runs, tmp_path)
    assert (tmp_path / "results.png").exists()
    hashes.plot([], tmp_path)


def test_memory_stands_beside_depth(tmp_path):
    entry = {"peak_bytes": 700e6, "before_bytes": 500e6}
    more = {"reversible": entry, "stored": entry | {"peak_bytes": 900e6}}
    runs = [run_of("2", 0, 3.0, step_memory=more), run_of("2", 1, 3.5), run_of("12", 0, 2.0)]
    text = depth.render(HEADER, runs)
    assert "| 2 | 1,000 | 2,000 | 3 | 3.250 ± 0.354 | 2 |" in text
    assert "| stored | 900 (400) |" in text and "| activations | 2 |" in text
    depth.plot(runs, tmp_path)
    assert (tmp_path / "results.png").exists()
    depth.plot([], tmp_path)


def test_smoke(tmp_path, monkeypatch):
    """All of them, in this process: others would import for seconds."""
    calls = []

    def run_process(module, request, timeout, environment=None):
        calls.append(module)
        return import_module(module).answer(json.loads(json.dumps(request)))

    for module in (training, hashes, memory):
        monkeypatch.setattr(module, "run_process", run_process)
    words = ["--smoke", "--output_dir", str(tmp_path)]
    chosen = {"hashes": ["1"], "depth": ["2"]}
    for claim in ("shared_qk", "hashes", "reversible", "depth"):
        names = ["--rows", *chosen[claim]] if claim in chosen else []
        assert main([claim, *words, *names]) == 0
    count = len(calls)
    assert main(["reversible", *words]) == 0 and len(calls) == count
    results = {
        name: results_of(tmp_path / "smoke" / name)["runs"]
        for name in ("shared_qk", "hashes", "reversible", "depth")
    }
    for name, runs in results.items():
        assert (tmp_path / "smoke" / name / "results.png").exists()
        assert all(run["tokens"] == 512 for run in runs), name
    assert [len(run["curve"]) for run in results["shared_qk"]] == [4, 4]
    assert results["shared_qk"][0]["curve_steps"] == [1, 2, 3, 4]
    for run in results["hashes"]:
        own = run["evaluated"][run["run"]["row"]]
        assert own == pytest.approx(run["bits_per_byte"], rel=1e-3)
        assert len({round(bits, 6) for bits in run["evaluated"].values()}) > 1
    reversed_, stored, one_stream = results["reversible"]
    assert reversed_["bits_per_byte"] == pytest.approx(stored["bits_per_byte"], rel=1e-3)
    assert one_stream["bits_per_byte"] != pytest.approx(stored["bits_per_byte"], rel=1e-3)
    assert one_stream["parameters"] == stored["parameters"]
    assert reversed_["step_memory"].keys() == {"1", "2", "4", "8"}
    assert results["depth"][0]["step_memory"].keys() == {"reversible", "stored"}

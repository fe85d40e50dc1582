"""transformers' example scripts train this package's models, unchanged.

transformers' packages on PyPI do not hold the scripts. To test those of a checkout of its source:

    TRANSFORMERS_EXAMPLES=.../examples/pytorch/language-modeling pytest -m slow tests/training

(`run_clm.py` needs the package `evaluate`). Otherwise scripts of our own that make the same calls
are tested in their place.
"""

import json
import os
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from reformer_hf import ReformerHFByteTokenizer
from tests import processes
from tests.models.tiny import tiny_lm
from tests.training.runs import largest_difference, weights

pytestmark = pytest.mark.distributed
EXAMPLES = os.environ.get("TRANSFORMERS_EXAMPLES")
OWN = {name: f"own_{name}" for name in ("run_clm.py", "run_clm_no_trainer.py")}

# All that is added to a script.
WRAPPER = """
import runpy, sys
import reformer_hf
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny model of bytes with its tokenizer, and lines of different lengths."""
    tiny_lm(vocab_size=258, initializer_range=0.1).save_pretrained(tmp_path / "start")
    ReformerHFByteTokenizer(model_max_length=96).save_pretrained(tmp_path / "start")
    lines = [f"line {index}" + " word" * (index % 9) + "\n" for index in range(400)]
    (tmp_path / "text.txt").write_text("".join(lines))
    (tmp_path / "wrapper.py").write_text(WRAPPER)
    return tmp_path


def train(root, script, count, *arguments):
    values = {
        "model_name_or_path": root / "start",
        "train_file": root / "text.txt",
        "output_dir": root / "run",
        "block_size": 64,
    }
    arguments = [*arguments, *(p for k, v in values.items() for p in (f"--{k}", v))]
    processes.run(count, root / "wrapper.py", script, *arguments, DISABLE_TELEMETRY="1")
    results = json.loads((root / "run" / "all_results.json").read_text())
    AutoModelForCausalLM.from_pretrained(root / "run")
    assert largest_difference(weights(root / "run"), weights(root / "start")) > 1e-3
    return results


TRAINER = ["--use_cpu", "--max_steps", "4", "--learning_rate", "1e-2", "--save_steps", "2"]
TRAINER += ["--report_to", "none"]


def own(name, root):
    return Path(__file__).with_name(OWN[name]), ["--cache_dir", str(root / "cache")]


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_calls_of_run_clm(checkpoint, count):
    script, arguments = own("run_clm.py", checkpoint)
    results = train(checkpoint, script, count, *arguments, *TRAINER)
    assert 0 < results["train_loss"] < 7 and 1 < results["perplexity"] < 258
    assert (checkpoint / "run" / "checkpoint-4").is_dir()


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_calls_of_run_clm_no_trainer(checkpoint, count):
    script, arguments = own("run_clm_no_trainer.py", checkpoint)
    results = train(checkpoint, script, count, *arguments)
    assert 1 < results["perplexity"] < 258
    assert (checkpoint / "run" / "epoch_0").is_dir()


needs_examples = pytest.mark.skipif(
    EXAMPLES is None, reason="TRANSFORMERS_EXAMPLES does not name transformers' example scripts"
)


@needs_examples
@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_run_clm_itself(checkpoint, count):
    script = Path(str(EXAMPLES), "run_clm.py")
    # Without --do_eval, which loads a metric from the Hub.
    results = train(checkpoint, script, count, "--do_train", *TRAINER)
    assert 0 < results["train_loss"] < 7


@needs_examples
@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_run_clm_no_trainer_itself(checkpoint, count):
    script = Path(str(EXAMPLES), "run_clm_no_trainer.py")
    arguments = ["--max_train_steps", "4", "--checkpointing_steps", "2", "--learning_rate", "1e-2"]
    results = train(checkpoint, script, count, *arguments)
    assert 1 < results["perplexity"] < 1e5
    assert (checkpoint / "run" / "step_2").is_dir()

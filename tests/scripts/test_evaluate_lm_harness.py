import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reformer_hf import ReformerHFByteTokenizer
from scripts.evaluate_lm_harness import main
from tests.models.tiny import tiny_lm

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "evaluate_lm_harness.py"

TASK = """
task: tiny_text
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
"""

STUB = """
import sys
from transformers import CONFIG_MAPPING
def cli_evaluate():
    print("reformer_hf" in CONFIG_MAPPING, sys.argv[1:])
"""


def evaluate(*arguments: str, path: Path, **environment: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(path), str(ROOT)])
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_the_models_are_registered_before_the_harness_takes_over(tmp_path):
    (tmp_path / "lm_eval").mkdir()
    (tmp_path / "lm_eval" / "__init__.py").write_text("")
    (tmp_path / "lm_eval" / "__main__.py").write_text(STUB)
    done = evaluate("run", "--model", "hf", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True ['run', '--model', 'hf']\n"


def test_a_missing_harness_is_a_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SystemExit, match=r"error: .*lm_eval.* Install it: pip install"):
        main()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm_eval comes with the extra `eval`"
)
def test_the_harness_measures_what_the_model_says(tmp_path):
    model, tokenizer = tiny_lm(vocab_size=258), ReformerHFByteTokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    texts = ["def f(x):\n    return x\n", "naïve 🙂"]
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    (tmp_path / "task.yaml").write_text(TASK.replace("FILE", str(tmp_path / "texts.jsonl")))
    options = {
        "model": "hf",
        "model_args": f"pretrained={tmp_path / 'model'}",
        "tasks": "tiny_text",
        "include_path": tmp_path,
        "output_path": tmp_path / "results",
        "device": "cpu",
        "batch_size": 2,
    }
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    done = evaluate("run", *arguments, path=tmp_path, HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "results").rglob("results_*.json")
    measured = json.loads(file.read_text())["results"]["tiny_text"]["bits_per_byte,none"]

    nats = 0.0
    for text in texts:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text).input_ids]])
        with torch.no_grad():
            logits = model(ids[:, :-1]).logits.double()
        nats += torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
    num_bytes = sum(len(text.encode()) for text in texts)
    assert measured == pytest.approx(nats / num_bytes / math.log(2), rel=1e-5)

"""A run that is killed at any moment leaves a last checkpoint that loads, and goes on from it."""

import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from reformer_hf.training.checkpoints import last_whole_checkpoint
from tests import processes
from tests.training.runs import largest_difference, tiny_overrides, weights, write_documents

SCRIPTS = Path(__file__).parents[2] / "scripts"


def arguments_of(script, root, name, steps):
    values = {
        "train_file": root / "train.jsonl",
        "cache_dir": root / "cache",
        "output_dir": root / name,
        "block_size": 64,
        "max_eval_samples": 2,
        "config_overrides": tiny_overrides(dropout=0.1),
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 2,
        "save_total_limit": 1,
        "resume_from_checkpoint": "last",
    }
    if script == "train_clm":
        values |= {"max_steps": steps, "save_steps": 1, "report_to": "none", "optim": "adamw_torch"}
        values |= {"do_train": True, "use_cpu": True, "disable_tqdm": True}
    else:
        values |= {"max_train_steps": steps, "checkpointing_steps": 1}
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


@pytest.mark.parametrize(
    ("script", "kills", "count"),
    [
        ("train_clm", 3, 30),
        pytest.param("train_clm_no_trainer", 3, 30, marks=pytest.mark.slow),
        pytest.param("train_clm", 20, 30, marks=pytest.mark.slow),
        pytest.param("train_clm_no_trainer", 20, 30, marks=pytest.mark.slow),
    ],
)
def test_kills_at_random_moments(tmp_path, script, kills, count):
    """Kills of runs of so many steps."""
    write_documents(tmp_path / "train.jsonl")
    log, chance = tmp_path / "log", random.Random(kills)

    def start(name, steps=count):
        arguments = arguments_of(script, tmp_path, name, steps)
        return processes.start(SCRIPTS / f"{script}.py", *arguments, log=log)

    def finish(name, **options):
        process = start(name, **options)
        process.join(600)
        assert process.exitcode == 0, log.read_text()[-3000:]

    finish("warm-up", steps=1)  # makes the imports, and fills the cache of the data
    began = time.monotonic()
    finish("straight")
    longest = time.monotonic() - began

    expected = weights(tmp_path / "straight")

    directory, killed, steps = tmp_path / "broken", 0, []
    while killed < kills:
        process = start("broken")
        process.join(chance.uniform(0.1, 1.0) * longest)
        process.kill()
        process.join()
        if process.exitcode == 0:  # it came to its end first
            shutil.rmtree(directory)
            continue
        assert process.exitcode == -signal.SIGKILL, log.read_text()[-3000:]
        killed += 1
        checkpoint = last_whole_checkpoint(directory)[0]
        steps.append(0 if checkpoint is None else int(re.sub(r"\D", "", checkpoint.name)))
        if checkpoint is not None:
            AutoModelForCausalLM.from_pretrained(checkpoint)
        if steps[-1] == count and killed < kills:  # the next kill shall hit training again
            finish("broken")
            assert largest_difference(weights(directory), expected) == 0
            shutil.rmtree(directory)
    finish("broken")
    assert largest_difference(weights(directory), expected) == 0
    print(f"{script}: {killed} kills, last checkpoints {steps}")
    assert any(step > 0 for step in steps), "no kill came after a checkpoint"

import json

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM

from reformer_hf.training.loop_checkpoints import (
    Progress,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from tests.models.tiny import tiny_lm


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    model = tiny_lm()
    accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    yield accelerator
    AcceleratorState._reset_state(reset_partial_state=True)


def save(accelerator, directory, step, limit=None):
    save_checkpoint(accelerator, directory, f"step_{step}", Progress(step=step), limit)


def test_what_was_saved_is_loaded(accelerator, tmp_path):
    (model,) = accelerator._models
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    progress = Progress(3, 1, 8, 0.5, [{"step": 2, "loss": 1.0}])
    save_checkpoint(accelerator, tmp_path, "step_3", progress, None)
    with torch.no_grad():
        model.lm_head.bias += 1
    torch.rand(3)
    assert load_checkpoint(accelerator, tmp_path / "step_3") == progress
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "step_3").state_dict()
    assert all(torch.equal(alone[name], value) for name, value in before.items())


def test_the_last_is_that_of_the_highest_step(accelerator, tmp_path):
    for step in (9, 10, 2):
        save(accelerator, tmp_path, step)
    assert find_checkpoint("last", tmp_path).name == "step_10"
    (tmp_path / "step_10" / "model.safetensors").unlink()
    assert find_checkpoint("last", tmp_path).name == "step_9"
    assert find_checkpoint(str(tmp_path / "step_2"), tmp_path).name == "step_2"
    for asked, message in (
        (None, "holds step_9 of another run"),
        (str(tmp_path / "step_10"), "the last whole one of output_dir is .*step_9"),
    ):
        with pytest.raises(ValueError, match=message):
            find_checkpoint(asked, tmp_path)
    assert find_checkpoint("last", tmp_path / "nothing") is None
    assert find_checkpoint(None, tmp_path / "nothing") is None


def test_older_ones_are_deleted_only_when_the_new_one_is_whole(accelerator, tmp_path, monkeypatch):
    save(accelerator, tmp_path, 1, limit=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def interrupt(path):
            assert json.loads((path / "progress.json").read_text())["step"] == 2
            raise KeyboardInterrupt

        patch.setattr("reformer_hf.training.loop_checkpoints.seal", interrupt)
        save(accelerator, tmp_path, 2, limit=1)
    assert find_checkpoint("last", tmp_path).name == "step_1"
    save(accelerator, tmp_path, 2, limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_2"]


def test_what_was_just_saved_is_not_deleted_for_its_low_number(accelerator, tmp_path):
    save(accelerator, tmp_path, 5)
    save(accelerator, tmp_path, 3, limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_3"]

import json

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM

from reformer_hf.training import checkpoints
from reformer_hf.training.arguments import PretrainedModelArguments
from reformer_hf.training.checkpoints import (
    OLD_RUN_SETTINGS,
    PROGRESS,
    RUN_SETTINGS,
    Progress,
    check_settings,
    compare_settings,
    find_checkpoint,
    is_whole,
    last_whole_checkpoint,
    load_checkpoint,
    save_checkpoint,
    seal,
    set_aside,
    settings_of,
)
from tests.models.tiny import tiny_lm


@pytest.fixture
def folder(tmp_path):
    for step in (5, 10, 100):
        path = tmp_path / f"checkpoint-{step}"
        path.mkdir()
        (path / "model.safetensors").write_bytes(bytes(1000))
        (path / "trainer_state.json").write_text("{}")
        seal(path)
    return tmp_path


def test_the_last_checkpoint_is_that_of_the_highest_step(folder):
    assert last_whole_checkpoint(folder) == (folder / "checkpoint-100", [])


def test_no_folder_and_an_empty_one_have_no_checkpoint(tmp_path):
    assert last_whole_checkpoint(tmp_path / "nothing") == (None, [])
    assert last_whole_checkpoint(tmp_path) == (None, [])


def truncate(path):
    (path / "model.safetensors").write_bytes(bytes(999))


def zero_out_of_order(path):
    (path / "model.safetensors").write_bytes(bytes(999) + b"x")


def lose_a_file(path):
    (path / "trainer_state.json").unlink()


def lose_the_seal(path):
    (path / "seal.json").unlink()


def cut_the_seal(path):
    text = (path / "seal.json").read_text()
    (path / "seal.json").write_text(text[:-9])


def empty(path):
    for file in path.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    "damage", [truncate, zero_out_of_order, lose_a_file, lose_the_seal, cut_the_seal, empty]
)
def test_a_broken_checkpoint_is_skipped(folder, damage):
    damage(folder / "checkpoint-100")
    assert not is_whole(folder / "checkpoint-100")
    whole, broken = last_whole_checkpoint(folder)
    assert whole == folder / "checkpoint-10"
    assert broken == [folder / "checkpoint-100"]
    (note,) = set_aside(broken)
    assert "checkpoint-100" in note
    assert last_whole_checkpoint(folder) == (folder / "checkpoint-10", [])


def test_with_none_whole_there_is_none(folder):
    for path in list(folder.iterdir()):
        truncate(path)
    whole, broken = last_whole_checkpoint(folder)
    assert whole is None
    assert len(broken) == 3


def test_only_the_contents_of_the_last_ones_are_read(folder, monkeypatch):
    truncate(folder / "checkpoint-100")
    lose_the_seal(folder / "checkpoint-5")
    read = []
    hashes = checkpoints._hashes
    monkeypatch.setattr(
        checkpoints, "_hashes", lambda path, *names: read.append(path.name) or hashes(path, *names)
    )
    broken = [folder / "checkpoint-5", folder / "checkpoint-100"]
    assert last_whole_checkpoint(folder) == (folder / "checkpoint-10", broken)
    assert read == ["checkpoint-100", "checkpoint-10"]


SETTINGS = {"data": {"train_file": "a", "packing": "none"}, "seed": 0}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": {"train_file": "b", "packing": "none"}}, "data.train_file was 'a', now 'b'"),
        ({"data": {"train_file": "a"}}, "data.packing was 'none', now None"),
        ({"seed": 1, "model": 4}, "model was None, now 4; seed was 0, now 1"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(folder, change, message):
    check_settings(folder, SETTINGS, None)
    check_settings(folder, SETTINGS, folder / "checkpoint-10")
    with pytest.raises(ValueError, match=message) as caught:
        check_settings(folder, SETTINGS | change, folder / "checkpoint-10")
    assert "choose another --output_dir" in str(caught.value)
    assert json.loads((folder / RUN_SETTINGS).read_text()) == SETTINGS
    check_settings(folder, SETTINGS | change, None)  # a new run
    assert json.loads((folder / RUN_SETTINGS).read_text()) == SETTINGS | change


def test_settings_of_a_run_before_the_file_had_its_name_are_checked(folder):
    written = {"data": SETTINGS["data"] | {"length_penalty": 1.0}, "seed": 0}  # may change now
    (folder / OLD_RUN_SETTINGS).write_text(json.dumps(written))
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        check_settings(folder, SETTINGS | {"seed": 1}, folder / "checkpoint-10")
    check_settings(folder, SETTINGS, folder / "checkpoint-10")
    assert not (folder / OLD_RUN_SETTINGS).exists()  # it would be uploaded
    assert json.loads((folder / RUN_SETTINGS).read_text()) == SETTINGS


def test_settings_are_those_beside_the_checkpoint(folder, tmp_path):
    check_settings(folder, SETTINGS, None)
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        check_settings(tmp_path / "other", SETTINGS | {"seed": 1}, folder / "checkpoint-10")
    check_settings(tmp_path / "other", SETTINGS, folder / "checkpoint-10")
    assert json.loads((tmp_path / "other" / RUN_SETTINGS).read_text()) == SETTINGS
    (folder / RUN_SETTINGS).write_text("{")
    with pytest.raises(ValueError, match="run_settings.json cannot be read"):
        check_settings(folder, SETTINGS, folder / "checkpoint-10")


def test_checkpoints_of_another_script_are_not_gone_on_from(folder):
    assert find_checkpoint("last", folder).name == "checkpoint-100"
    with pytest.raises(ValueError, match="progress.json is missing, which one of this script has"):
        find_checkpoint("last", folder, PROGRESS)


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    model = tiny_lm()
    accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    yield accelerator
    AcceleratorState._reset_state(reset_partial_state=True)


def save(accelerator, directory, step, limit=None):
    save_checkpoint(accelerator, directory, Progress(step=step), limit)


def find(asked, directory):
    return find_checkpoint(asked, directory, PROGRESS)


def test_what_was_saved_is_loaded(accelerator, tmp_path):
    (model,) = accelerator._models
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    progress = Progress(3, 1, 8, 0.5, [{"step": 2, "loss": 1.0}])
    save_checkpoint(accelerator, tmp_path, progress, None)
    with torch.no_grad():
        model.lm_head.bias += 1
    torch.rand(3)
    assert load_checkpoint(accelerator, tmp_path / "checkpoint-3") == progress
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-3").state_dict()
    assert all(torch.equal(alone[name], value) for name, value in before.items())


def test_the_last_is_that_of_the_highest_step(accelerator, tmp_path):
    for step in (9, 10, 2):
        save(accelerator, tmp_path, step)
    assert find("last", tmp_path).name == "checkpoint-10"
    (tmp_path / "checkpoint-10" / "model.safetensors").unlink()
    assert find("last", tmp_path).name == "checkpoint-9"
    assert find(str(tmp_path / "checkpoint-2"), tmp_path).name == "checkpoint-2"
    for asked, message in (
        (None, "holds checkpoint-9 of another run"),
        (str(tmp_path / "checkpoint-10"), "the last whole one of output_dir is .*checkpoint-9"),
    ):
        with pytest.raises(ValueError, match=message):
            find(asked, tmp_path)
    assert find("last", tmp_path / "nothing") is None
    assert find(None, tmp_path / "nothing") is None


def test_older_ones_are_deleted_only_when_the_new_one_is_whole(accelerator, tmp_path, monkeypatch):
    save(accelerator, tmp_path, 1, limit=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def interrupt(path):
            assert json.loads((path / "progress.json").read_text())["step"] == 2
            raise KeyboardInterrupt

        patch.setattr("reformer_hf.training.checkpoints.seal", interrupt)
        save(accelerator, tmp_path, 2, limit=1)
    assert find("last", tmp_path).name == "checkpoint-1"
    save(accelerator, tmp_path, 2, limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_what_was_just_saved_is_not_deleted_for_its_low_number(accelerator, tmp_path):
    save(accelerator, tmp_path, 5)
    save(accelerator, tmp_path, 3, limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_what_decides_a_run_holds_no_secret():
    settings = settings_of(
        PretrainedModelArguments(token="secret", config_overrides="hidden_size=8")
    )
    assert settings["config_overrides"] == "hidden_size=8" and "secret" not in str(settings)


@pytest.mark.parametrize("asked", [None, "last"])
def test_a_file_is_no_folder_for_a_run(tmp_path, asked):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ValueError, match=r"output_dir=.*run is a file: choose a folder"):
        find_checkpoint(asked, tmp_path / "run")


def test_a_run_from_before_an_option_goes_on_where_the_option_is_switched_off(tmp_path):
    """A recipe that has chosen it since then does not change the model of that run."""

    def settings(overrides):
        return {"model": {"config_overrides": overrides}}

    (tmp_path / RUN_SETTINGS).write_text(json.dumps(settings("hidden_size=8")))
    off, on = (
        settings("use_qk_norm=false,hidden_size=8"),
        settings("use_qk_norm=true,hidden_size=8"),
    )
    compare_settings(tmp_path, off)
    with pytest.raises(ValueError, match="model.config_overrides.use_qk_norm was None, now True"):
        compare_settings(tmp_path, on)

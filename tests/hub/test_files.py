import json
import os
import shutil
from pathlib import Path

import pytest

from reformer_hf.hub.files import check_files, describe_files, select_files
from tests.hub.model_folder import PUBLISHED, write_model_folder

SECRET = "hf_" + "Q7" * 17


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def names(folder, **options):
    return select_files(folder, **options).keys()


def check(folder, token=None):
    check_files(folder, select_files(folder), token)


def test_what_goes_and_what_stays(folder):
    assert names(folder) == PUBLISHED
    assert names(folder, ignore_patterns=["runs/*", "*.csv"]) == PUBLISHED - {
        "runs/events.out",
        "loss_curve.csv",
    }
    more = names(folder, include_checkpoints=True) - PUBLISHED
    assert more == {
        "checkpoint-5/model.safetensors",
        "checkpoint-5/optimizer.pt",
        "optimizer.pt",
        "rng_state.pth",
        "_run_settings.json",
        "run_settings.json",
        "scheduler.pt",
        "trainer_state.json",
        "training_args.bin",
    }
    check(folder)


@pytest.mark.parametrize("state", ["step_4", "epoch_0", "_broken-checkpoint-4"])
def test_checkpoints_of_all_kinds_stay(folder, state):
    shutil.copytree(folder / "checkpoint-5", folder / state)
    assert names(folder) == PUBLISHED
    assert f"{state}/model.safetensors" in names(folder, include_checkpoints=True)


@pytest.mark.parametrize("folder_inside", ["", "adapter/"])
def test_state_of_all_kinds_stays(folder, folder_inside):
    state = ["seal.json", "scaler.pt", "random_states_0.pkl", "custom_checkpoint_0.pkl"]
    state += ["optimizer.bin", "scheduler.bin", "rng_state_1.pth", "global_step2/x.pt"]
    state += ["pytorch_model_fsdp_0/x.distcp", "training_args.bin", "trainer_state.json"]
    for name in state:
        file = folder / folder_inside / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert names(folder) == PUBLISHED
    inside = {f"{folder_inside}{name}" for name in state}
    assert inside <= names(folder, include_checkpoints=True)


def test_sizes_and_their_sum(folder):
    (folder / "loss_curve.csv").write_bytes(b"x" * 12_345_678)
    files = select_files(folder)
    text = describe_files(files)
    total = sum(os.path.getsize(folder / name) for name in PUBLISHED)
    assert "12,345,678 bytes  loss_curve.csv" in text
    assert text.endswith(f"{total:,} bytes in {len(PUBLISHED)} files")
    assert len(text.splitlines()) == len(PUBLISHED) + 1


def test_links_to_files_are_followed(folder, tmp_path):
    shutil.move(folder / "model.safetensors", tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert names(folder) == PUBLISHED
    check(folder)


def test_shards_are_enough_and_must_all_be_there(folder):
    shutil.move(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    shutil.copy(
        folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors"
    )
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    check(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks model-00002-of-00002.safetensors"):
        check(folder)


def test_adapters_alone_are_enough(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    check(folder)


def cut(folder):
    os.truncate(folder / "model.safetensors", 1000)


def empty(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").touch()


def name_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "elsewhere/code--configuration.C",
        "AutoModel": "modeling_x.Model",
        "AutoTokenizer": [None, "tokenization_x.Tokenizer"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenization_x.py").touch()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (cut, "model.safetensors is damaged"),
        (empty, "pytorch_model.bin is damaged"),
        (
            lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"),
            "README.md: the meta",
        ),
        (name_code, "auto_map names modeling_x.py, which"),
    ],
)
def test_what_could_not_be_loaded_is_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        check(folder)


def test_tokens_in_files_are_found_wherever_they_are(folder):
    for content in (b"x" * 5000 + SECRET.encode(), b"--odd-token--", b"hf_hf_" + SECRET.encode()):
        (folder / "loss_curve.png").write_bytes(content)
        with pytest.raises(ValueError, match="^loss_curve.png: holds a token") as error:
            check(folder, "odd-token")
        assert SECRET not in str(error.value) and "odd-token" not in str(error.value)
    for harmless in (b"", b"hf_hub_download and hf_", b"self.hf_" + b"_" * 40, b"odd token"):
        (folder / "loss_curve.png").write_bytes(harmless)
        check(folder, "odd-token")

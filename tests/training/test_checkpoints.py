import pytest

from reformer_hf.training.checkpoints import is_whole, last_whole_checkpoint, seal, set_aside


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

import json
import shutil
from pathlib import Path

import pytest

from reformer_hf.hub.remote_code import remote_code_files
from scripts import push_to_hub
from tests import processes
from tests.hub.conftest import TOKEN, hub, waits  # noqa: F401
from tests.hub.fake_hub import URL
from tests.hub.fake_validation import metadata_errors
from tests.hub.model_folder import PUBLISHED, write_model_folder
from tests.hub.test_card import RECORD

ROOT = Path(__file__).parents[2]
NAME = "ada/tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("model"))


def run(folder, *options):
    return push_to_hub.main([str(folder), NAME, *options])


def test_a_dry_run_lists_and_sends_nothing(hub, folder, capsys):  # noqa: F811
    assert run(folder, "--dry_run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[-1] for line in lines[: len(PUBLISHED)]} == PUBLISHED
    size = (folder / "model.safetensors").stat().st_size
    assert any(f"{size:,} bytes  model.safetensors" in line for line in lines)
    assert lines[-2].endswith(f"bytes in {len(PUBLISHED)} files")
    assert lines[-1] == f"Nothing was sent. Without --dry_run these go to {NAME}"
    assert hub.requests == []


def test_a_dry_run_writes_no_code(hub, folder, capsys):  # noqa: F811
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert run(folder, "--dry_run", "--remote_code") == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    assert "modules of this package would go, too" in capsys.readouterr().out


def test_options_reach_the_upload(hub, folder, capsys):  # noqa: F811
    options = ["--private", "--revision", "try", "--commit_message", "First", "--exist_ok"]
    assert run(folder, *options, "--ignore_patterns", "runs/*", "README.md") == 0
    repository = hub.repositories[NAME]
    assert repository.private and repository.changes == [("refs/heads/try", "First")]
    assert repository.at("try").files.keys() == PUBLISHED - {"runs/events.out", "README.md"}
    out = capsys.readouterr().out
    assert "There is no README.md yet" in out
    assert f"Done: {URL}/{NAME}/commit/" in out
    assert run(folder, "--create_pr") == 0
    assert f"Done: {URL}/{NAME}/discussions/1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a b/c", [], "error: Repo id must use"),
        ("eve/tiny", [], "error: 403 Forbidden: You don't have the rights to write to eve/tiny"),
        (NAME, ["--create_pr"], "error: create_pr=True: ada/tiny is not there"),
    ],
)
def test_mistakes_are_one_line(hub, folder, capsys, name, options, message):  # noqa: F811
    assert push_to_hub.main([str(folder), name, *options]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(message) and TOKEN not in error


def test_the_code_goes_along(hub, tmp_path, capsys):  # noqa: F811
    folder = write_model_folder(tmp_path)
    assert run(folder, "--remote_code") == 0
    files = hub.repositories[NAME].at("main").files
    assert files.keys() == PUBLISHED | remote_code_files().keys()
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForCausalLM"] == "modeling_reformer_hf.ReformerHFForCausalLM"


def test_a_token_among_the_arguments_is_not_repeated(folder, capsys):
    with pytest.raises(SystemExit):
        run(folder, "--token", TOKEN)
    assert TOKEN not in capsys.readouterr().err
    assert push_to_hub.main([str(folder), TOKEN + "/" + TOKEN + "/x"]) == 1
    assert TOKEN not in capsys.readouterr().err


def test_a_record_becomes_a_card(hub, folder, tmp_path):  # noqa: F811
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "README.md").unlink()
    (copy / "run_record.json").write_text(json.dumps(RECORD))
    assert run(copy, "--dry_run") == 0
    assert not (copy / "README.md").exists()
    assert run(copy, "--license", "mit") == 0
    card = hub.repositories[NAME].at("main").files["README.md"].decode()
    assert "# tiny" in card and "license: mit" in card and metadata_errors(card) == []


def test_the_same_command_goes_on(hub, folder, capsys):  # noqa: F811
    hub.uses_lfs = True
    hub.faults["/commit/"] = [KeyboardInterrupt()]
    assert run(folder) == 130
    assert "The same command goes on" in capsys.readouterr().err
    sent = hub.count("PUT /lfs/")
    assert run(folder) == 0
    assert hub.repositories[NAME].at("main").files.keys() == PUBLISHED
    assert hub.count("PUT /lfs/") == sent == 2


def test_from_a_shell(folder):
    script = ROOT / "scripts" / "push_to_hub.py"
    assert "Nothing was sent" in processes.run(1, script, folder, "tiny", "--dry_run")

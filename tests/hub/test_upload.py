"""Publishing through the real client, against the Hub on this machine."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RevisionNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from reformer_hf.hub.upload import plan_upload, push_folder
from tests.hub.conftest import BOBS_TOKEN, TOKEN
from tests.hub.fake_hub import URL
from tests.hub.model_folder import PUBLISHED, write_model_folder

NAME = "ada/tiny"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize("uses_lfs", [False, True])
def test_everything_goes_in_one_commit(hub, folder, uses_lfs):
    hub.uses_lfs = uses_lfs
    commit = push_folder(folder, NAME, commit_message="First", private=True)
    repository = hub.repositories[NAME]
    assert repository.changes == [("refs/heads/main", "First")]
    assert repository.private and commit.oid == repository.at("main").oid
    files = repository.at("main").files
    assert files == {name: (folder / name).read_bytes() for name in PUBLISHED}
    assert ("model.safetensors" in repository.at("main").large) == uses_lfs


def test_a_pushed_model_is_what_comes_back(hub, folder):
    push_folder(folder, "tiny")  # of whoever the token belongs to
    ids = torch.randint(2, 258, (1, 20))
    models = [AutoModelForCausalLM.from_pretrained(source).eval() for source in (NAME, folder)]
    with torch.no_grad():
        remote, local = (model(ids).logits for model in models)
    assert torch.equal(remote, local)
    assert AutoTokenizer.from_pretrained(NAME)("né").input_ids == [112, 197, 171]
    write = pipeline(model=NAME)  # the task is that of the card
    assert write("abc", max_new_tokens=4)[0]["generated_text"].startswith("abc")


def test_branches(hub, folder):
    push_folder(folder, NAME)
    (folder / "metrics.json").write_text("{}")
    for message in ("One", "Two"):
        (folder / "loss_curve.csv").write_text(message)
        push_folder(folder, NAME, revision="try/1", exist_ok=True, commit_message=message)
    repository = hub.repositories[NAME]
    assert repository.changes[1:] == [("refs/heads/try/1", "One"), ("refs/heads/try/1", "Two")]
    assert repository.at("try/1").files["metrics.json"] == b"{}"
    assert repository.at("main").files["metrics.json"] != b"{}"
    AutoModelForCausalLM.from_pretrained(NAME, revision="try/1")
    with pytest.raises(OSError, match="nowhere"):
        AutoModelForCausalLM.from_pretrained(NAME, revision="nowhere")


def test_pull_requests(hub, folder):
    push_folder(folder, NAME)
    (folder / "metrics.json").write_text("{}")
    commit = push_folder(folder, NAME, create_pr=True, commit_message="Better")
    assert (commit.pr_num, commit.pr_url) == (1, f"{URL}/{NAME}/discussions/1")
    (folder / "metrics.json").write_text("[]")
    push_folder(folder, NAME, revision="refs/pr/1", exist_ok=True)
    repository = hub.repositories[NAME]
    assert repository.changes[1:] == [("refs/pr/1", "Better"), ("refs/pr/1", "Upload model")]
    assert repository.at("refs/pr/1").files["metrics.json"] == b"[]"
    assert len(repository.at("main").files["metrics.json"]) > 2
    AutoModelForCausalLM.from_pretrained(NAME, revision="refs/pr/1")


def test_others_repositories_take_pull_requests_only(hub, folder):
    push_folder(folder, NAME)
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(HfHubHTTPError, match="You don't have the rights to write to ada/tiny"):
        push_folder(folder, NAME, token=BOBS_TOKEN, exist_ok=True)
    assert push_folder(folder, NAME, token=BOBS_TOKEN, create_pr=True).pr_num == 1


def test_a_repository_with_files_is_not_written_to_by_accident(hub, folder):
    HfApi().create_repo(NAME)  # an empty one is as good as none
    push_folder(folder, NAME)
    with pytest.raises(ValueError, match="ada/tiny exists already, with 10 files.*exist_ok"):
        push_folder(folder, NAME)
    before = hub.repositories[NAME].at("main")
    commit = push_folder(folder, NAME, exist_ok=True)  # the same: no commit
    assert hub.repositories[NAME].at("main") == before and commit.oid == before.oid
    (folder / "metrics.json").write_text("{}")
    push_folder(folder, NAME, exist_ok=True)
    assert len(hub.repositories[NAME].changes) == 2


def test_nothing_private_becomes_public_by_accident(hub, folder):
    HfApi().create_repo(NAME)
    with pytest.raises(ValueError, match="private=True, but ada/tiny is public"):
        push_folder(folder, NAME, private=True)
    assert hub.repositories[NAME].changes == []
    HfApi().create_repo("ada/secret", private=True)
    push_folder(folder, "ada/secret", private=False)
    assert hub.repositories["ada/secret"].private


def test_a_pull_request_needs_a_repository(hub, folder):
    with pytest.raises(ValueError, match="ada/tiny is not there.*Leave out create_pr"):
        push_folder(folder, NAME, create_pr=True)
    assert hub.repositories == {}


def test_training_state_goes_where_it_is_asked_for(hub, folder):
    push_folder(folder, NAME, include_checkpoints=True, ignore_patterns=["runs/*"])
    files = hub.repositories[NAME].at("main").files.keys()
    assert {"optimizer.pt", "checkpoint-5/model.safetensors"} < files
    assert "runs/events.out" not in files


def test_a_plan_asks_nobody(hub, folder):
    assert plan_upload(folder).keys() == PUBLISHED
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ada/tiny/model", "repo_name"),
        ("ada/ti ny", "alphanumeric"),
        ("-tiny", "alphanumeric"),
        ("ada/tiny.git", ".git"),
        ("ada/a--b", "--"),
        ("a" * 97, "96"),
        ("", "alphanumeric"),
    ],
)
def test_names_that_are_not_valid(hub, folder, name, message):
    with pytest.raises(ValueError, match=message):
        push_folder(folder, name)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"commit_message": ""}, "commit_message=''"),
        ({"token": "hf_a b"}, "holds spaces"),
    ],
)
def test_arguments_are_checked_first(hub, folder, options, message):
    with pytest.raises(ValueError, match=message):
        push_folder(folder, NAME, **options)
    assert hub.requests == []


def test_a_card_that_the_hub_refuses(hub, folder):
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace("apache-2.0", "freeware"))
    with pytest.raises(ValueError, match=r"Invalid metadata in README.md\.\s.*license"):
        push_folder(folder, NAME)
    assert hub.repositories[NAME].changes == []


def test_a_token_in_a_file_stays_here(hub, folder, everything_said):
    (folder / "metrics.json").write_text(f'{{"token": "{TOKEN}"}}')
    with pytest.raises(ValueError, match="^metrics.json: holds a token of the Hub"):
        push_folder(folder, NAME)
    assert hub.requests == [] and TOKEN not in everything_said()
    (folder / "metrics.json").write_text('{"token": "odd-token"}')
    with pytest.raises(ValueError, match="^metrics.json: holds a token of the Hub"):
        push_folder(folder, NAME, token="odd-token")


class TestFaults:
    @pytest.mark.parametrize("fault", [503, KeyboardInterrupt(), "no network"])
    def test_what_arrived_is_not_sent_again(self, hub, folder, fault):
        hub.uses_lfs = True
        error = hub.client.ConnectError("cut") if fault == "no network" else fault
        hub.faults["/commit/"] = [error]
        with pytest.raises((OSError, KeyboardInterrupt)):
            push_folder(folder, NAME, revision="try")
        assert hub.count("PUT /lfs/") == len(hub.objects) == 2  # weights and plot
        push_folder(folder, NAME, revision="try")
        assert hub.count("PUT /lfs/") == 2
        repository = hub.repositories[NAME]
        assert repository.at("try").files.keys() == PUBLISHED
        assert len(repository.changes) == 1

    def test_the_client_tries_again_what_carries_large_files(self, hub, folder, waits):
        hub.uses_lfs = True
        hub.faults["PUT /lfs/"] = [503, 502, hub.client.ReadTimeout("silent")]
        push_folder(folder, NAME)
        assert waits == [1, 2, 4] or sorted(waits) == [1, 1, 2]  # of one file, or of both
        assert hub.repositories[NAME].at("main").files.keys() == PUBLISHED

    def test_no_network(self, hub, folder):
        hub.faults["models"] = [hub.client.ConnectError("no route")]
        with pytest.raises(
            ConnectionError, match=r"no answer from .* \(no route\)\. Check the net"
        ):
            push_folder(folder, NAME)

    def test_a_wrong_token(self, hub, folder):
        hub.users.clear()
        with pytest.raises(HfHubHTTPError, match=r"401[\s\S]*Invalid credentials"):
            push_folder(folder, NAME)

    def test_no_token(self, hub, folder, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(
            OSError, match="no token: make one.*set HF_TOKEN or run `hf auth login`"
        ):
            push_folder(folder, NAME)
        assert hub.requests == []

    def test_offline_mode(self, hub, folder, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(OfflineModeIsEnabled):
            push_folder(folder, NAME)

    @pytest.mark.parametrize("revision", ["refs/pr/7", "refs/heads/other"])
    def test_references_that_are_not_there(self, hub, folder, revision):
        with pytest.raises(RevisionNotFoundError):
            push_folder(folder, NAME, revision=revision)


def test_a_whole_upload_tells_no_token(hub, folder, everything_said, monkeypatch):
    monkeypatch.setattr(constants, "HF_DEBUG", True)  # which logs every request
    hub.faults["preupload"] = [503]
    push_folder(folder, NAME)
    said = everything_said()
    assert "Retrying in" in said and "curl" in said
    assert TOKEN not in said
    assert TOKEN.encode() not in b"".join(hub.repositories[NAME].at("main").files.values())

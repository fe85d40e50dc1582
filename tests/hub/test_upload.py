"""Publishing through the real client, against the Hub on this machine."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from reformer_hf.hub.upload import plan_upload, push_folder
from reformer_hf.hub.upload_errors import UploadError
from tests.hub.conftest import READ_TOKEN
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
    assert (commit.pr_num, commit.pr_url) == (1, f"{hub.url}/{NAME}/discussions/1")
    (folder / "metrics.json").write_text("[]")
    push_folder(folder, NAME, revision="refs/pr/1", exist_ok=True)
    repository = hub.repositories[NAME]
    assert [request.title for request in repository.pull_requests] == ["Better"]
    assert repository.at("refs/pr/1").files["metrics.json"] == b"[]"
    assert len(repository.at("main").files["metrics.json"]) > 2
    AutoModelForCausalLM.from_pretrained(NAME, revision="refs/pr/1")


def test_others_repositories_take_pull_requests_only(hub, folder):
    hub.users["hf_" + "b" * 34] = ("bob", "write")
    push_folder(folder, NAME)
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(UploadError, match=r"user bob\) may not write to ada/tiny"):
        push_folder(folder, NAME, token="hf_" + "b" * 34, exist_ok=True)
    assert push_folder(folder, NAME, token="hf_" + "b" * 34, create_pr=True).pr_num == 1


def test_a_repository_with_files_is_not_written_to_by_accident(hub, folder):
    HfApi().create_repo(NAME)  # an empty one is as good as none
    push_folder(folder, NAME)
    with pytest.raises(UploadError, match="ada/tiny exists already, with 10 files.*exist_ok"):
        push_folder(folder, NAME)
    before = hub.repositories[NAME].at("main")
    commit = push_folder(folder, NAME, exist_ok=True)  # the same: no commit
    assert hub.repositories[NAME].at("main") == before and commit.oid == before.oid
    (folder / "metrics.json").write_text("{}")
    push_folder(folder, NAME, exist_ok=True)
    assert len(hub.repositories[NAME].changes) == 2


def test_nothing_private_becomes_public_by_accident(hub, folder):
    HfApi().create_repo(NAME)
    with pytest.raises(UploadError, match="private=True, but ada/tiny is public"):
        push_folder(folder, NAME, private=True)
    assert hub.repositories[NAME].changes == []
    HfApi().create_repo("ada/secret", private=True)
    push_folder(folder, "ada/secret", private=False)
    assert hub.repositories["ada/secret"].private


def test_a_pull_request_needs_a_repository(hub, folder):
    with pytest.raises(UploadError, match="ada/tiny is not there.*Leave out create_pr"):
        push_folder(folder, NAME, create_pr=True)
    assert hub.repositories == {}


def test_training_state_goes_where_it_is_asked_for(hub, folder):
    push_folder(folder, NAME, include_checkpoints=True, ignore_patterns=["runs/*"])
    files = hub.repositories[NAME].at("main").files.keys()
    assert {"optimizer.pt", "checkpoint-5/model.safetensors"} < files
    assert "runs/events.out" not in files


def test_a_plan_asks_nobody(hub, folder):
    assert {file.name for file in plan_upload(folder)} == PUBLISHED
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
        ({"attempts": 0}, "attempts=0"),
        ({"token": "hf_a b"}, "no token"),
    ],
)
def test_arguments_are_checked_first(hub, folder, options, message):
    with pytest.raises(ValueError, match=message):
        push_folder(folder, NAME, **options)
    assert hub.requests == []


def test_a_card_that_the_hub_refuses(hub, folder):
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace("apache-2.0", "freeware"))
    with pytest.raises(ValueError, match="Invalid metadata in README.md.*license"):
        push_folder(folder, NAME)
    assert hub.repositories[NAME].changes == []


def test_a_token_that_only_reads(hub, folder):
    with pytest.raises(
        UploadError, match=r"user rae\) may not write to rae/tiny: it may only read"
    ):
        push_folder(folder, "tiny", token=READ_TOKEN)
    assert hub.repositories == {}

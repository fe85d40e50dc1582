"""The fake Hub as the real client sees it: without this package's own code."""

import io
from pathlib import Path

import pytest
import torch
from huggingface_hub import (
    HfApi,
    ModelCard,
    ModelCardData,
    constants,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from reformer_hf import ReformerHFByteTokenizer
from tests.hub.conftest import READ_TOKEN, TOKEN
from tests.models.tiny import tiny_lm

NAME = "ada/tiny"


@pytest.fixture
def api(hub):
    return HfApi()


@pytest.fixture
def repository(hub, api):
    api.create_repo(NAME)
    return hub.repositories[NAME]


def put(api, name, content, **options):
    return api.upload_file(
        path_or_fileobj=io.BytesIO(content), path_in_repo=name, repo_id=NAME, **options
    )


def read(path):
    return Path(path).read_bytes()


def test_files_come_back_as_they_went(hub, api, repository):
    for hub.uses_lfs in (False, True):
        content = bytes(range(256)) * 40 + str(hub.uses_lfs).encode()
        commit = put(api, "weights/a.safetensors", content)
        assert repository.at("main").oid == commit.oid
        assert ("weights/a.safetensors" in repository.at("main").large) == hub.uses_lfs
        path = hf_hub_download(NAME, "weights/a.safetensors")
        assert read(path) == content
    put(api, "weights/a.safetensors", content)
    assert len(repository.changes) == 2  # nothing new: no commit
    api.delete_file("weights/a.safetensors", NAME)
    assert not api.file_exists(NAME, "weights/a.safetensors")


def test_listings(api, repository):
    put(api, "a.txt", b"one")
    put(api, "folder/b.txt", b"two")
    assert [file.path for file in api.list_repo_tree(NAME, recursive=True)] == [
        "a.txt",
        "folder/b.txt",
    ]
    assert api.list_repo_files(NAME) == ["a.txt", "folder/b.txt"]
    assert api.repo_info(NAME).sha == repository.at("main").oid
    folder = snapshot_download(NAME)
    assert read(f"{folder}/folder/b.txt") == b"two"
    assert api.whoami()["name"] == "ada"


def test_branches_and_pull_requests(api, repository):
    put(api, "a.txt", b"one")
    api.create_branch(NAME, branch="try/1")
    put(api, "a.txt", b"two", revision="try/1")
    pull_request = put(api, "a.txt", b"three", create_pr=True, commit_message="Three")
    assert (pull_request.pr_num, pull_request.pr_revision) == (1, "refs/pr/1")
    put(api, "a.txt", b"four", revision="refs/pr/1")
    found = {
        revision: read(hf_hub_download(NAME, "a.txt", revision=revision))
        for revision in ("main", "try/1", "refs/pr/1")
    }
    assert found == {"main": b"one", "try/1": b"two", "refs/pr/1": b"four"}
    references = api.list_repo_refs(NAME, include_pull_requests=True)
    assert [branch.name for branch in references.branches] == ["main", "try/1"]
    assert [each.ref for each in references.pull_requests] == ["refs/pr/1"]
    assert [each.title for each in api.get_repo_discussions(NAME)] == ["Three"]
    draft = api.create_pull_request(NAME, "Later")
    assert (draft.num, draft.status, draft.target_branch) == (2, "draft", "main")


def test_what_is_refused(hub, api, repository, monkeypatch):
    def status(call, *args, **kwargs):
        with pytest.raises(HfHubHTTPError) as error:
            call(*args, **kwargs)
        return error.value.response.status_code

    assert status(api.create_repo, NAME) == 409
    assert api.create_repo(NAME, exist_ok=True).repo_id == NAME
    assert status(api.create_repo, "bob/tiny") == 403
    assert status(api.create_repo, "rae/tiny", token=READ_TOKEN) == 403
    assert status(api.create_repo, "ada/b", token="hf_wrong") == 401
    assert status(api.whoami, token="hf_wrong") == 401
    assert status(put, api, "a.txt", b"", token=READ_TOKEN) == 403
    api.create_branch(NAME, branch="b")
    assert status(api.create_branch, NAME, branch="b") == 409
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info("ada/nothing")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(NAME, "a.txt", revision="nowhere")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(NAME, "nothing.txt")
    api.create_repo("ada/secret", private=True)
    assert api.repo_info("ada/secret").private
    for token in (READ_TOKEN, False):
        with pytest.raises(RepositoryNotFoundError):
            api.repo_info("ada/secret", token=token)
    assert hub.users[TOKEN] == ("ada", "write")


@pytest.mark.parametrize("kind", ["status", "cut", "slow", "half", "stall"])
def test_downloads_survive_faults(hub, api, repository, waits, monkeypatch, kind):
    content = bytes(range(256)) * 8
    put(api, "a.bin", content)
    if kind == "stall":
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    status = {"status": 429} if kind == "status" else {}
    hub.fail("GET .*/resolve/", kind, times=1, **status)
    assert read(hf_hub_download(NAME, "a.bin")) == content
    assert len(waits) == (0 if kind == "slow" else 1)


def test_a_dead_hub_is_an_error_after_some_attempts(hub, api, repository, waits):
    hub.fail("preupload", "status", times=99, status=503)
    with pytest.raises(HfHubHTTPError, match="503"):
        put(api, "a.txt", b"one")
    assert waits == [1, 2, 4, 8, 8]


def test_cards_are_checked(hub, api, repository):
    good = ModelCardData(license="apache-2.0", pipeline_tag="text-generation", tags=["a"])
    card = ModelCard(f"---\n{good.to_yaml()}\n---\n# Title\n")
    card.validate()
    card.push_to_hub(NAME)
    assert api.model_info(NAME).pipeline_tag == "text-generation"
    card.data.license = "freeware"
    with pytest.raises(ValueError, match="license"):
        card.validate()


def test_models_tokenizers_and_pipelines(hub):
    model = tiny_lm(vocab_size=258).eval()
    model.push_to_hub("tiny")
    ReformerHFByteTokenizer().push_to_hub("tiny")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(
        hub.repositories[NAME].at("main").files
    )
    ids = torch.randint(2, 258, (1, 20))
    loaded = AutoModelForCausalLM.from_pretrained(NAME).eval()
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=0)
    tokenizer = AutoTokenizer.from_pretrained(NAME)
    assert tokenizer("né").input_ids == ReformerHFByteTokenizer()("né").input_ids
    write = pipeline("text-generation", model=NAME)
    text = write("abc", max_new_tokens=4, do_sample=False)[0]["generated_text"]
    assert text.startswith("abc") and len(text) > 3

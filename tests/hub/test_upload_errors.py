"""What goes wrong on the way, what the user is told, and that no token is told."""

import shutil
import traceback
from pathlib import Path

import pytest
from huggingface_hub import constants

from reformer_hf.hub.upload import push_folder
from reformer_hf.hub.upload_errors import UploadError
from tests.hub.conftest import TOKEN
from tests.hub.model_folder import PUBLISHED, write_model_folder

NAME = "ada/tiny"

STEPS = (
    "GET /api/whoami-v2",
    f"GET /api/models/{NAME}$",
    "POST /api/repos/create",
    "POST /api/models/.*/branch/",
    "POST /api/validate-yaml",
    "POST /api/models/.*/preupload/",
    "POST /.*/objects/batch",
    "PUT /lfs/",
    "POST /api/models/.*/commit/",
)
"""Each request of an upload to a new repository's branch, large files by LFS."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def push(folder, **options):
    return push_folder(folder, NAME, **{"revision": "try"} | options)


EVERYWHERE = [(step, kind) for step in STEPS for kind in ("status", "lost", "stall")]
SOMEWHERE = [(step, kind) for step in (STEPS[0], STEPS[-1]) for kind in ("cut", "half", "page")]


@pytest.mark.parametrize(("step", "kind"), EVERYWHERE + SOMEWHERE)
def test_faults_that_pass_are_waited_for(hub, folder, waits, step, kind):
    hub.uses_lfs = True
    fault = {"kind": kind}
    if kind == "page":
        fault = {"kind": "status", "status": 502, "message": "<html>Bad gateway</html>"}
    hub.fail(step, times=1, **fault)
    push(folder, timeout=0.2 if kind == "stall" else 10)
    assert hub.faults[0].times == 0  # it did happen
    repository = hub.repositories[NAME]
    assert repository.at("try").files.keys() == PUBLISHED
    assert len(repository.changes) == 1
    assert waits == [1]


def test_a_slow_hub_is_no_fault(hub, folder, waits):
    for step in STEPS:
        hub.fail(step, "slow")
    push(folder, timeout=5)
    assert waits == [] and len(hub.repositories[NAME].changes) == 1


def test_waits_grow_and_the_hub_may_ask_for_more(hub, folder, waits):
    hub.fail("/commit/", "status", times=3, status=503)
    push(folder)
    assert waits == [1, 2, 4]
    waits.clear()
    (folder / "metrics.json").write_text("{}")
    hub.fail("/commit/", "status", status=429, headers={"Retry-After": "20"})
    push(folder, exist_ok=True)
    assert waits == [20]


@pytest.mark.parametrize("kind", ["lost", "half", "status"])
def test_a_lost_answer_makes_no_second_pull_request(hub, folder, kind):
    push_folder(folder, NAME)
    (folder / "metrics.json").write_text("{}")
    hub.repositories[NAME].open_pull_request("Better", "ada", "main")  # an older one
    hub.fail("/commit/", kind)
    commit = push_folder(folder, NAME, create_pr=True, commit_message="Better")
    repository = hub.repositories[NAME]
    assert commit.pr_num == len(repository.pull_requests) == 2
    assert commit.oid == repository.at("refs/pr/2").oid
    assert repository.at("refs/pr/2").files["metrics.json"] == b"{}"


def test_what_arrived_is_not_sent_again(hub, folder):
    hub.uses_lfs = True
    hub.fail("/commit/", "cut", times=99)
    with pytest.raises(UploadError, match="Run the same again"):
        push(folder)
    hub.faults.clear()
    assert hub.count("PUT /lfs/") == len(hub.objects) == 2  # weights and plot
    push(folder)
    assert hub.count("PUT /lfs/") == 2
    assert hub.repositories[NAME].at("try").files.keys() == PUBLISHED


CASES = {
    "wrong token": (
        lambda hub: hub.users.clear(),
        r"does not accept the token from the variable HF_TOKEN: it is wrong or expired",
    ),
    "not allowed": (
        lambda hub: hub.users.update({TOKEN: ("eve", "write")}),
        r"user eve\) may not write to ada/tiny: You don't have the rights",
    ),
    "broken Hub": (
        lambda hub: hub.fail("preupload", "status", times=99, status=500),
        r"answered 500, 2 times: Internal Error\. Run the same again",
    ),
    "error pages": (
        lambda hub: hub.fail("yaml", "status", times=99, status=502, message="<html>"),
        r"answered with an error page, 2 times\. Run the same again",
    ),
    "cut": (
        lambda hub: hub.fail("/commit/", "cut", times=99),
        r"no answer from the Hub .*, 2 times .*Check the network",
    ),
    "silent": (
        lambda hub: hub.fail("whoami", "stall", times=99),
        r"no answer from the Hub .*timed out.*Check the network",
    ),
    "no network": (lambda hub: hub.close(), r"no answer from the Hub .*Check the network"),
    "payment": (
        lambda hub: hub.fail("/commit/", "status", times=99, status=402, message="Pay first"),
        r"answered 402: Pay first",
    ),
    "gone": (
        lambda hub: hub.fail("/commit/", "status", times=99, status=404, message="Gone"),
        r"ada/tiny is not there, or not yours to see: Gone",
    ),
    "quoted token": (
        lambda hub: hub.fail("/commit/", "status", times=9, status=418, message=f"not {TOKEN}"),
        r"answered 418: not hf_…$",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_stays_wrong_is_told_without_the_token(hub, folder, everything_said, case):
    arm, message = CASES[case]
    arm(hub)
    with pytest.raises(UploadError, match=message) as error:
        push(folder, attempts=2, timeout=0.2)
    said = everything_said() + "".join(traceback.format_exception(error.value))
    assert TOKEN not in said
    assert TOKEN not in "".join(map(repr, [error.value, error.value.__cause__]))


def test_no_token(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        UploadError, match="no token: make one.*set HF_TOKEN or run `hf auth login`"
    ):
        push(folder)
    assert hub.requests == []


def test_offline_mode(hub, folder, monkeypatch, waits):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UploadError, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: unset"):
        push(folder)
    assert waits == []


@pytest.mark.parametrize("revision", ["refs/pr/7", "refs/heads/other"])
def test_references_that_are_not_there(hub, folder, revision):
    with pytest.raises(UploadError, match=f"revision='{revision}' is not in ada/tiny"):
        push(folder, revision=revision)


def test_a_token_in_a_file_stays_here(hub, folder, everything_said):
    (folder / "metrics.json").write_text(f'{{"token": "{TOKEN}"}}')
    with pytest.raises(ValueError, match="^metrics.json: holds a token of the Hub") as error:
        push(folder)
    assert hub.requests == []
    assert TOKEN not in everything_said() + "".join(traceback.format_exception(error.value))


def test_a_whole_upload_tells_no_token(hub, folder, everything_said, monkeypatch):
    monkeypatch.setattr(constants, "HF_DEBUG", True)  # which logs every request
    for step in STEPS:
        hub.fail(step, "status", status=503)
    push(folder)
    said = everything_said()
    assert "trying again" in said and "curl" in said
    assert TOKEN not in said
    assert TOKEN.encode() not in b"".join(hub.repositories[NAME].at("try").files.values())

"""What each address of the Hub does."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tests.hub.fake_repositories import DATE, PullRequest, Repository
from tests.hub.fake_validation import card_metadata, metadata_errors

if TYPE_CHECKING:
    from tests.hub.fake_hub import FakeHub

ID = r"(?P<id>[^/]+/[^/]+)"
LFS_SUFFIXES = (".safetensors", ".bin", ".png", ".pt")


@dataclass
class Answer:
    """What a route replies with: a JSON value, or bytes."""

    content: object = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def refuse(status: int, message: str, code: str | None = None) -> Answer:
    """An error as the Hub words it."""
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return Answer({"error": message}, status, headers)


@dataclass
class Call:
    """One request, and who makes it."""

    hub: FakeHub
    query: dict[str, str]
    user: str | None
    role: str | None
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    def check(self, names: dict[str, Any]) -> Answer | None:
        """Refuse what is not there or not this user's to see; put the repository for its name."""
        if "id" not in names:
            return None
        repository = self.hub.repositories.get(names["id"])
        if repository is None or (repository.private and repository.owner != self.user):
            status = 404 if self.user else 401
            return refuse(status, "Repository not found", "RepoNotFound")
        names["id"] = repository
        if names.get("revision"):
            names["revision"] = unquote(names["revision"])
            if repository.at(names["revision"]) is None:
                return refuse(404, f"Invalid rev id: {names['revision']}", "RevisionNotFound")
        return None

    def may_write(self, owner: str) -> Answer | None:
        """Refuse who has no right to."""
        if self.user is None:
            return refuse(401, "Invalid username or password.")
        if self.role != "write" or owner != self.user:
            return refuse(403, f"You don't have the rights to write to the namespace {owner!r}")
        return None


ROUTES: list[tuple[str, Callable[..., Answer]]] = []


def route(pattern: str):
    """Register a function for a pattern of method and path."""

    def register(function):
        ROUTES.append((pattern, function))
        return function

    return register


@route(r"GET /api/whoami-v2")
def whoami(call: Call) -> Answer:
    if call.user is None:
        return refuse(401, "Invalid username or password.")
    access = {"accessToken": {"displayName": "test", "role": call.role}}
    return Answer({"type": "user", "name": call.user, "orgs": [], "auth": access})


@route(r"POST /api/repos/create")
def create_repository(call: Call) -> Answer:
    wanted = call.json
    owner = wanted.get("organization") or call.user
    if problem := call.may_write(owner):
        return problem
    name = f"{owner}/{wanted['name']}"
    url = f"{call.hub.url}/{name}"
    if name in call.hub.repositories:
        message = "You already created this model repo"
        return Answer({"error": message, "url": url, "name": name}, 409)
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    call.hub.repositories[name] = Repository(name, private)
    return Answer({"url": url, "name": name, "id": name})


@route(r"POST /api/validate-yaml")
def validate_card(call: Call) -> Answer:
    errors = metadata_errors(call.json["content"])
    reply = {"errors": [{"message": error} for error in errors], "warnings": []}
    return Answer(reply | ({"error": "; ".join(errors)} if errors else {}), 400 if errors else 200)


@route(rf"GET /api/models/{ID}(/revision/(?P<revision>[^/]+))?")
def model_info(call: Call, id: Repository, revision: str | None) -> Answer:
    commit = id.at(revision or "main")
    metadata = card_metadata(commit.files.get("README.md", b"").decode()) or {}
    return Answer(
        {
            "id": id.id,
            "modelId": id.id,
            "sha": commit.oid,
            "private": id.private,
            "lastModified": DATE,
            "siblings": [{"rfilename": name} for name in commit.files],
            "cardData": metadata,
            "tags": metadata.get("tags", []),
        }
        | {key: metadata[key] for key in ("pipeline_tag", "library_name") if key in metadata}
    )


@route(rf"GET /api/models/{ID}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?")
def tree(call: Call, id: Repository, revision: str, folder: str | None) -> Answer:
    commit = id.at(revision)
    prefix = f"{folder}/" if folder else ""
    files = [name for name in commit.files if name.startswith(prefix)]
    if folder and not files:
        return refuse(404, f"{folder} does not exist", "EntryNotFound")
    return Answer([commit.entry(name) for name in files])


@route(rf"GET /api/models/{ID}/refs")
def references(call: Call, id: Repository) -> Answer:
    def listed(prefix: str) -> list[dict]:
        found = [(ref, oid) for ref, oid in id.refs.items() if ref.startswith(prefix)]
        return [{"name": r.removeprefix(prefix), "ref": r, "targetCommit": o} for r, o in found]

    branches = listed("refs/heads/")
    empty = {"converts": [], "tags": []}
    return Answer({"branches": branches, "pullRequests": listed("refs/pr/")} | empty)


@route(rf"POST /api/models/{ID}/branch/(?P<branch>[^/]+)")
def create_branch(call: Call, id: Repository, branch: str) -> Answer:
    if problem := call.may_write(id.owner):
        return problem
    name = f"refs/heads/{unquote(branch)}"
    if name in id.refs:
        return refuse(409, f"Reference already exists: {name}")
    id.refs[name] = id.at(call.json.get("startingPoint", "main")).oid
    return Answer(None, 201)


@route(rf"POST /api/models/{ID}/preupload/(?P<revision>[^/]+)")
def preupload(call: Call, id: Repository, revision: str) -> Answer:
    commit = id.at(revision)

    def plan(file: dict) -> dict:
        is_large = call.hub.uses_lfs and file["path"].endswith(LFS_SUFFIXES)
        plan = {"path": file["path"], "uploadMode": "lfs" if is_large else "regular"}
        known = {"oid": commit.blob_id(file["path"])} if file["path"] in commit.files else {}
        return plan | known | {"shouldIgnore": False}

    return Answer({"files": [plan(file) for file in call.json["files"]]})


@route(rf"POST /{ID}\.git/info/lfs/objects/batch")
def lfs_batch(call: Call, id: Repository) -> Answer:
    def plan(file: dict) -> dict:
        if file["oid"] in call.hub.objects:
            return file
        return file | {"actions": {"upload": {"href": f"{call.hub.url}/lfs/{file['oid']}"}}}

    return Answer({"transfer": "basic", "objects": [plan(file) for file in call.json["objects"]]})


@route(r"PUT /lfs/(?P<oid>\w+)")
def lfs_upload(call: Call, oid: str) -> Answer:
    if hashlib.sha256(call.body).hexdigest() != oid:
        return refuse(400, "content does not match its sha256")
    call.hub.objects[oid] = call.body
    return Answer()


@route(rf"POST /api/models/{ID}/commit/(?P<revision>[^/]+)")
def commit(call: Call, id: Repository, revision: str) -> Answer:
    creates_pull_request = call.query.get("create_pr") == "1"
    problem = None if creates_pull_request and call.user else call.may_write(id.owner)
    if problem:
        return problem
    header, *operations = [json.loads(line) for line in call.body.splitlines()]
    new, large, deleted = {}, set(), set()
    for operation in operations:
        value, kind = operation["value"], operation["key"]
        if kind == "file":
            new[value["path"]] = base64.b64decode(value["content"])
        elif kind == "lfsFile":
            if value["oid"] not in call.hub.objects:
                return refuse(400, f"LFS object {value['oid']} was not uploaded")
            new[value["path"]] = call.hub.objects[value["oid"]]
            large.add(value["path"])
        else:
            deleted |= {n for n in id.at(revision).files if n.startswith(value["path"])}
    title, reply = header["value"]["summary"], {}
    ref = id.ref(revision)
    if creates_pull_request:
        base = str(ref).removeprefix("refs/heads/")
        number = id.open_pull_request(title, str(call.user), base).number
        ref = f"refs/pr/{number}"
        reply["pullRequestUrl"] = f"{call.hub.url}/{id.id}/discussions/{number}"
    made = id.commit(str(ref), title, new, large, deleted)
    url = f"{call.hub.url}/{id.id}/commit/{made.oid}"
    return Answer(reply | {"success": True, "commitOid": made.oid, "commitUrl": url})


@route(rf"GET /api/models/{ID}/discussions")
def pull_requests(call: Call, id: Repository) -> Answer:
    listed = [_described(id, each) for each in id.pull_requests]
    return Answer({"discussions": listed, "count": len(listed), "start": 0})


@route(rf"POST /api/models/{ID}/discussions")
def open_pull_request(call: Call, id: Repository) -> Answer:
    if call.user is None or not call.json["pullRequest"]:
        return refuse(401, "Invalid username or password.")
    pull_request = id.open_pull_request(call.json["title"], call.user, "main")
    pull_request.status = "draft"
    return Answer({"num": pull_request.number})


@route(rf"GET /api/models/{ID}/discussions/(?P<number>\d+)")
def pull_request_details(call: Call, id: Repository, number: str) -> Answer:
    pull_request = id.pull_requests[int(number) - 1]
    details = {"changes": {"base": pull_request.base}, "filesWithConflicts": [], "events": []}
    return Answer(_described(id, pull_request) | details)


def _described(repository: Repository, pull_request: PullRequest) -> dict:
    return {
        "title": pull_request.title,
        "num": pull_request.number,
        "author": {"name": pull_request.author},
        "createdAt": DATE,
        "status": pull_request.status,
        "repo": {"name": repository.id, "type": "model"},
        "isPullRequest": True,
    }


@route(rf"(GET|HEAD) /{ID}/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
def resolve(call: Call, id: Repository, revision: str, file: str) -> Answer:
    commit, file = id.at(revision), unquote(file)
    headers = {"X-Repo-Commit": commit.oid}
    if file not in commit.files:
        answer = refuse(404, f"{file} does not exist", "EntryNotFound")
        return Answer(answer.content, 404, answer.headers | headers)
    headers |= {"ETag": f'"{commit.blob_id(file)}"', "Accept-Ranges": "bytes"}
    return Answer(commit.files[file], 200, headers)

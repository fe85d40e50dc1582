"""A Hub in this process: what the real client of `huggingface_hub` asks, answered from memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from huggingface_hub.utils.sha import git_hash

from tests.hub.fake_validation import card_metadata, metadata_errors

URL = "https://huggingface.co"
ID = r"(?P<id>[^/]+/[^/]+)"
LARGE = (".safetensors", ".bin", ".png", ".pt")
"""These go by LFS where the Hub uses it."""

ROUTES = {
    "whoami": "GET /api/whoami-v2",
    "create": "POST /api/repos/create",
    "validate": "POST /api/validate-yaml",
    "info": rf"GET /api/models/{ID}(?:/revision/(?P<revision>[^/]+))?",
    "tree": rf"GET /api/models/{ID}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?",
    "branch": rf"POST /api/models/{ID}/branch/(?P<branch>[^/]+)",
    "preupload": rf"POST /api/models/{ID}/preupload/(?P<revision>[^/]+)",
    "lfs_batch": rf"POST /{ID}\.git/info/lfs/objects/batch",
    "lfs_upload": r"PUT /lfs/(?P<oid>\w+)",
    "commit": rf"POST /api/models/{ID}/commit/(?P<revision>[^/]+)",
    "resolve": rf"(?:GET|HEAD) /{ID}/resolve/(?P<revision>[^/]+)/(?P<file>.+)",
}
"""Method of the fake Hub to pattern of what it answers."""


@dataclass(frozen=True)
class Commit:
    """A state of all files.

    Attributes:
        oid: 40 hexadecimal digits.
        files: name to content.
        large: names of the files that came by LFS.
    """

    oid: str
    files: dict[str, bytes]
    large: frozenset[str] = frozenset()

    def blob_id(self, name: str) -> str:
        """What the client compares with its file: of LFS files the sha256, of others git's."""
        content = self.files[name]
        return hashlib.sha256(content).hexdigest() if name in self.large else git_hash(content)


@dataclass
class Repository:
    """A model repository, with an empty first commit as on the Hub.

    Attributes:
        private: whether only its owner sees it.
        commits: in order.
        refs: full name of a branch or pull request to its commit.
        changes: reference and title of each commit that a client made.
    """

    private: bool = False
    commits: list[Commit] = field(default_factory=list)
    refs: dict[str, Commit] = field(default_factory=dict)
    changes: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self):
        self.add("refs/heads/main", {}, frozenset())

    def ref(self, revision: str) -> str | None:
        """The full name of a branch or pull request; None if there is none."""
        names = (revision, f"refs/heads/{revision}")
        return next((name for name in names if name in self.refs), None)

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, reference or id names."""
        if name := self.ref(revision):
            return self.refs[name]
        return next((commit for commit in self.commits if commit.oid == revision), None)

    def add(self, ref: str, files: dict[str, bytes], large: frozenset[str]) -> Commit:
        """Put a commit on a reference."""
        oid = hashlib.sha1(f"{id(self)} {len(self.commits)}".encode()).hexdigest()
        self.commits.append(Commit(oid, files, large))
        self.refs[ref] = self.commits[-1]
        return self.commits[-1]


class Refusal(Exception):
    """An error as the Hub words it."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = {"status_code": status, "json": {"error": message}, "headers": headers}


class FakeHub:
    """The Hub; all that it stores and was asked is open to tests.

    Args:
        client: the HTTP library of `huggingface_hub`, whichever that is.

    Attributes:
        uses_lfs: whether large kinds of files come by LFS; otherwise all are in the commit.
        users: token to name.
        objects: sha256 to content of what came by LFS.
        faults: pattern of method and path to statuses or exceptions, one for each such request.
        requests: method and path of each.
        problems: requests that nothing answers.
    """

    def __init__(self, client: Any):
        self.client = client
        self.uses_lfs = False
        self.users = {"hf_" + "a" * 34: "ada", "hf_" + "b" * 34: "bob"}
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, list[int | BaseException]] = {}
        self.requests: list[str] = []
        self.problems: list[str] = []

    def count(self, pattern: str) -> int:
        """How many requests match."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)

    def handle(self, request: Any) -> Any:
        """Answer a request of the HTTP client."""
        name = f"{request.method} {request.url.raw_path.decode().partition('?')[0]}"
        self.requests.append(name)
        for pattern, faults in self.faults.items():
            if faults and re.search(pattern, name):
                fault = faults.pop(0)
                if isinstance(fault, BaseException):
                    raise fault
                return self.client.Response(**Refusal(fault, "Out of order").answer)
        try:
            return self.client.Response(**{"status_code": 200} | self.answer(name, request))
        except Refusal as refusal:
            return self.client.Response(**refusal.answer)

    def answer(self, name: str, request: Any) -> dict[str, Any]:
        """Do what a request asks for, and make the parts of its response."""
        body = request.read()
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        for route, pattern in ROUTES.items():
            if match := re.fullmatch(pattern, name):
                call = Call(self, self.users.get(token), body, request.url.params)
                return getattr(call, route)(**call.find(match.groupdict()))
        self.problems.append(name)
        raise Refusal(404, "Not found")


@dataclass
class Call:
    """One request, and who makes it."""

    hub: FakeHub
    user: str | None
    body: bytes
    query: Any

    @property
    def content(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body)

    def find(self, names: dict[str, Any]) -> dict[str, Any]:
        """Replace the parts of an address; refuse what is not there or not this user's to see."""
        names = {key: unquote(value) for key, value in names.items() if value is not None}
        if "id" not in names:
            return names
        repository = self.hub.repositories.get(names["id"])
        owner = names["id"].partition("/")[0]
        if repository is None or (repository.private and owner != self.user):
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if "revision" in names and repository.at(names["revision"]) is None:
            raise Refusal(404, f"Invalid rev id: {names['revision']}", "RevisionNotFound")
        return names | {"repository": repository}

    def check_owner(self, id: str) -> None:
        if id.partition("/")[0] != self.user:
            raise Refusal(403, f"You don't have the rights to write to {id}")

    def whoami(self) -> dict:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        return {"json": {"type": "user", "name": self.user, "orgs": []}}

    def create(self) -> dict:
        wanted = self.content
        name = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        self.check_owner(name)
        answer = {"url": f"{URL}/{name}", "name": name, "id": name}
        if name in self.hub.repositories:
            return {"status_code": 409, "json": answer | {"error": "You already created it"}}
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repositories[name] = Repository(private)
        return {"json": answer}

    def validate(self) -> dict:
        errors = metadata_errors(self.content["content"])
        answer = {"errors": [{"message": error} for error in errors], "warnings": []}
        if errors:
            return {"status_code": 400, "json": answer | {"error": "; ".join(errors)}}
        return {"json": answer}

    def info(self, id: str, repository: Repository, revision: str = "main") -> dict:
        commit = repository.at(revision)
        metadata = card_metadata(commit.files.get("README.md", b"").decode()) or {}
        known = {key: metadata[key] for key in ("pipeline_tag", "library_name") if key in metadata}
        files = [{"rfilename": name} for name in commit.files]
        answer = {"id": id, "modelId": id, "sha": commit.oid, "private": repository.private}
        return {"json": answer | known | {"siblings": files, "tags": [], "cardData": metadata}}

    def tree(self, id: str, repository: Repository, revision: str, folder: str = "") -> dict:
        commit = repository.at(revision)
        files = [name for name in commit.files if name.startswith(f"{folder}/" if folder else "")]
        if folder and not files:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        listed = [{"type": "file", "path": name, "oid": commit.blob_id(name)} for name in files]
        return {"json": [each | {"size": len(commit.files[each["path"]])} for each in listed]}

    def branch(self, id: str, repository: Repository, branch: str) -> dict:
        self.check_owner(id)
        name = f"refs/heads/{branch}"
        if name in repository.refs:
            raise Refusal(409, f"Reference already exists: {name}")
        repository.refs[name] = repository.refs["refs/heads/main"]
        return {"status_code": 201}

    def preupload(self, id: str, repository: Repository, revision: str) -> dict:
        commit = repository.at(revision)

        def plan(path: str) -> dict:
            mode = "lfs" if self.hub.uses_lfs and path.endswith(LARGE) else "regular"
            known = {"oid": commit.blob_id(path)} if path in commit.files else {}
            return {"path": path, "uploadMode": mode, "shouldIgnore": False} | known

        return {"json": {"files": [plan(file["path"]) for file in self.content["files"]]}}

    def lfs_batch(self, id: str, repository: Repository) -> dict:
        def plan(file: dict) -> dict:
            if file["oid"] in self.hub.objects:
                return file
            return file | {"actions": {"upload": {"href": f"{URL}/lfs/{file['oid']}"}}}

        objects = [plan(file) for file in self.content["objects"]]
        return {"json": {"transfer": "basic", "objects": objects}}

    def lfs_upload(self, oid: str) -> dict:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        return {}

    def commit(self, id: str, repository: Repository, revision: str) -> dict:
        creates_pull_request = self.query.get("create_pr") == "1"
        if not creates_pull_request:
            self.check_owner(id)
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        before, new, large = repository.at(revision), {}, set()
        for value in (operation["value"] for operation in operations):
            if "oid" in value:
                new[value["path"]] = self.hub.objects[value["oid"]]
                large.add(value["path"])
            else:
                new[value["path"]] = base64.b64decode(value["content"])
        ref, reply = str(repository.ref(revision)), {}
        if creates_pull_request:
            number = 1 + sum(name.startswith("refs/pr/") for name in repository.refs)
            ref = f"refs/pr/{number}"
            reply["pullRequestUrl"] = f"{URL}/{id}/discussions/{number}"
        all_large = frozenset((before.large - new.keys()) | large)
        made = repository.add(ref, before.files | new, all_large)
        repository.changes.append((ref, header["value"]["summary"]))
        url = f"{URL}/{id}/commit/{made.oid}"
        return {"json": reply | {"success": True, "commitOid": made.oid, "commitUrl": url}}

    def resolve(self, id: str, repository: Repository, revision: str, file: str) -> dict:
        commit = repository.at(revision)
        if file not in commit.files:
            raise Refusal(404, f"{file} does not exist", "EntryNotFound")
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{commit.blob_id(file)}"'}
        return {"content": commit.files[file], "headers": headers}

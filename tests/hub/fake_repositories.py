"""What a Hub stores: repositories of commits, branches and pull requests, in memory."""

import hashlib
import itertools
from dataclasses import dataclass, field

from huggingface_hub.utils.sha import git_hash

DATE = "2026-01-02T03:04:05.000Z"


@dataclass(frozen=True)
class Commit:
    """A state of all files.

    Attributes:
        oid: 40 hexadecimal digits.
        title: first line of the message.
        files: name to content.
        large: names of the files that came by LFS.
    """

    oid: str
    title: str
    files: dict[str, bytes]
    large: frozenset[str] = frozenset()

    def blob_id(self, name: str) -> str:
        """What the Hub compares with a local file: of LFS files the sha256, of others git's."""
        content = self.files[name]
        return hashlib.sha256(content).hexdigest() if name in self.large else git_hash(content)

    def entry(self, name: str) -> dict:
        """A file in a listing."""
        entry = {
            "type": "file",
            "path": name,
            "oid": git_hash(self.files[name]),
            "size": len(self.files[name]),
        }
        if name in self.large:
            lfs = {"oid": self.blob_id(name), "size": entry["size"], "pointerSize": 130}
            entry["lfs"] = lfs
        return entry


@dataclass
class PullRequest:
    """A pull request; its files are at `refs/pr/<number>`."""

    number: int
    title: str
    author: str
    base: str
    status: str = "open"


@dataclass
class Repository:
    """A model repository, with one first commit as on the Hub.

    Attributes:
        id: owner and name.
        private: whether only its owner sees it.
        refs: full name to commit id.
        commits: id to commit.
        pull_requests: in order.
        changes: the title of each commit that a client made, with the reference it went to.
    """

    id: str
    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    pull_requests: list[PullRequest] = field(default_factory=list)
    changes: list[tuple[str, str]] = field(default_factory=list)
    _numbers: itertools.count = field(default_factory=itertools.count)

    def __post_init__(self):
        self.refs["refs/heads/main"] = self._add(Commit("", "initial commit", {})).oid

    @property
    def owner(self) -> str:
        """The first part of the name."""
        return self.id.partition("/")[0]

    def ref(self, revision: str) -> str | None:
        """The full name of a branch, or of a pull request's reference; None if there is none."""
        names = (revision, f"refs/heads/{revision}")
        return next((name for name in names if name in self.refs), None)

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, reference or id names."""
        name = self.ref(revision)
        return self.commits.get(self.refs[name] if name else revision)

    def commit(
        self,
        ref: str,
        title: str,
        new: dict[str, bytes],
        large: set[str],
        deleted: set[str],
    ) -> Commit:
        """Put a new commit on top of a reference."""
        before = self.commits[self.refs[ref]]
        kept = {name: content for name, content in before.files.items() if name not in deleted}
        still_large = (before.large & kept.keys()) - new.keys()
        commit = self._add(Commit("", title, kept | new, frozenset(still_large | large)))
        self.refs[ref] = commit.oid
        self.changes.append((ref, title))
        return commit

    def open_pull_request(self, title: str, author: str, base: str) -> PullRequest:
        """Start a pull request at a branch."""
        pull_request = PullRequest(len(self.pull_requests) + 1, title, author, base)
        self.pull_requests.append(pull_request)
        self.refs[f"refs/pr/{pull_request.number}"] = self.refs[f"refs/heads/{base}"]
        return pull_request

    def _add(self, commit: Commit) -> Commit:
        oid = hashlib.sha1(f"{self.id} {next(self._numbers)}".encode()).hexdigest()
        commit = Commit(oid, commit.title, commit.files, commit.large)
        self.commits[oid] = commit
        return commit

"""Publishing a folder: the repository, and all its files in one commit."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from reformer_hf.hub.repository_files import (
    RepositoryFile,
    check_files,
    check_secrets,
    select_files,
)
from reformer_hf.hub.retries import with_retries
from reformer_hf.hub.tokens import find_token
from reformer_hf.hub.upload_errors import UploadError, UploadTarget, explain, no_token, showable

Result = TypeVar("Result")

PULL_REQUEST = "refs/pr/"


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    exist_ok: bool = False,
    commit_message: str = "Upload model",
    commit_description: str | None = None,
    token: str | None = None,
    include_checkpoints: bool = False,
    ignore_patterns: Sequence[str] = (),
    attempts: int = 5,
    timeout: float = 300.0,
) -> CommitInfo:
    """Upload a saved model with all that lies beside it, in one commit.

    Faults that pass are waited for. After one that does not, the same call goes on: large files
    that arrived are not sent again, and a commit that arrived is not made twice.
    (`huggingface_hub`'s own `upload_folder` may make several commits.)

    Args:
        folder: what `save_pretrained` or the Trainer wrote, with card, metrics and plots.
        repo_id: `owner/name`, or a name of your own.
        private: for a repository that does not exist yet; None for the owner's default.
        revision: a branch, made if it does not exist, or `refs/pr/<number>` of a pull request.
        create_pr: open a pull request at an existing repository.
        exist_ok: also write to a repository that holds files already.
        commit_message: title of the commit or pull request.
        commit_description: what more there is to say.
        token: with the right to write; None for HF_TOKEN or the login on this machine.
        include_checkpoints: also checkpoints and the optimizer's state.
        ignore_patterns: names to leave out.
        attempts: how often each step is tried.
        timeout: seconds in which the Hub may say nothing.

    Returns:
        Address and id of the commit, and of the pull request.

    Raises:
        ValueError: if an argument or the folder is wrong; nothing was sent.
        UploadError: if the Hub refuses, or cannot be reached. No message holds the token.
    """
    validate_repo_id(repo_id)
    if not commit_message:
        raise ValueError("commit_message='': give a title")
    if attempts < 1:
        raise ValueError(f"attempts={attempts}: must be 1 or more")
    found = find_token(token)
    files = plan_upload(folder, include_checkpoints, ignore_patterns, token)
    if found is None:
        raise UploadError(no_token())
    api = HfApi(
        token=found.value, library_name="reformer_hf", library_version=version("reformer_hf")
    )
    target = UploadTarget(repo_id, api.endpoint, revision, attempts, found)
    upload = _Upload(api, target, files, create_pr, timeout)
    try:
        upload.find_user()
        upload.find_repository(private, exist_ok)
        upload.find_branch()
        return upload.commit(commit_message, commit_description)
    except UploadError:
        raise
    except Exception as error:
        failure, cause = explain(error, target), error
    # Outside of the block above: what led to a failure may quote the token.
    raise failure from (cause if showable(cause, found) else None)


def plan_upload(
    folder: str | Path,
    include_checkpoints: bool = False,
    ignore_patterns: Sequence[str] = (),
    token: str | None = None,
) -> list[RepositoryFile]:
    """List what :func:`push_folder` would send, and check it; asks nobody.

    Raises:
        ValueError: if a model could not be loaded from it, or a file holds a token.
    """
    files = select_files(Path(folder), include_checkpoints, ignore_patterns)
    check_files(Path(folder), files)
    check_secrets(files, find_token(token))
    return files


@dataclass
class _Upload:
    """The steps of one upload."""

    api: HfApi
    target: UploadTarget
    files: list[RepositoryFile]
    create_pr: bool
    timeout: float

    def find_user(self) -> None:
        """Complete the name of the repository; a token that only reads is refused here."""
        user = self._try(self.api.whoami)
        self.target.user = user["name"]
        if "/" not in self.target.repo_id:
            self.target.repo_id = f"{user['name']}/{self.target.repo_id}"
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise UploadError(self.target.may_not_write("it may only read"))

    def find_repository(self, private: bool | None, exist_ok: bool) -> None:
        """Create the repository, or see that the existing one is meant."""
        name = self.target.repo_id
        info = self._try(self._repository)
        if info is None and self.create_pr:
            raise UploadError(
                f"{name} is not there, or not yours to see: a pull request needs a repository. "
                "Leave out create_pr to create it"
            )
        if info is None:
            # It was not there, so if it is now, an answer to this call was lost.
            self._try(lambda: self.api.create_repo(name, private=private, exist_ok=True))
            return
        if private and not info.private:
            raise UploadError(
                f"private=True, but {name} is public already, and uploading does not change that. "
                "Make it private in its settings, or leave out private"
            )
        files = {file.rfilename for file in info.siblings or []} - {".gitattributes"}
        if files and not (exist_ok or self.create_pr):
            raise UploadError(
                f"{name} exists already, with {len(files)} files. To write a commit on top give "
                "exist_ok, to propose one create_pr; or choose another name"
            )

    def find_branch(self) -> None:
        """Create the branch if it is not there."""
        branch = self.target.revision
        if branch is not None and not branch.startswith("refs/"):
            name = self.target.repo_id
            self._try(lambda: self.api.create_branch(name, branch=branch, exist_ok=True))

    def commit(self, message: str, description: str | None) -> CommitInfo:
        """Send the files and make the commit."""
        before = self._try(self._pull_requests) if self.create_pr else {}
        is_first = True

        def attempt() -> CommitInfo:
            nonlocal is_first
            if self.create_pr and not is_first:
                after = self._pull_requests()
                if new := [n for n in after.keys() - before.keys() if after[n] == message]:
                    return self._existing(max(new), message, description)
            is_first = False
            # Anew each time: the client asks which of them the Hub has.
            operations = [CommitOperationAdd(file.name, file.path) for file in self.files]
            return self.api.create_commit(
                self.target.repo_id,
                operations,
                commit_message=message,
                commit_description=description,
                revision=self.target.revision,
                create_pr=self.create_pr,
            )

        return self._try(attempt)

    def _try(self, call: Any) -> Any:
        return with_retries(call, self.target.attempts, self.timeout)

    def _repository(self) -> Any:
        try:
            return self.api.model_info(self.target.repo_id)
        except RepositoryNotFoundError:
            return None

    def _pull_requests(self) -> dict[int, str]:
        """Number and title of those of this user."""
        found = self.api.get_repo_discussions(
            self.target.repo_id, author=self.target.user, discussion_type="pull_request"
        )
        return {each.num: each.title for each in found if each.author == self.target.user}

    def _existing(self, number: int, message: str, description: str | None) -> CommitInfo:
        """A pull request that was made although its answer was lost."""
        name = self.target.repo_id
        oid = str(self.api.model_info(name, revision=f"{PULL_REQUEST}{number}").sha)
        return CommitInfo(
            commit_url=f"{self.api.endpoint}/{name}/commit/{oid}",
            commit_message=message,
            commit_description=description or "",
            oid=oid,
            pr_url=f"{self.api.endpoint}/{name}/discussions/{number}",
            _endpoint=self.api.endpoint,
        )
